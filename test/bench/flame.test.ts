import t from 'tap'
import { flameOf, flameSvg, topSelf, type CpuProfile } from './flame.js'

const at = (
  functionName: string,
  url = 'file:///x/packages/common/dist/src/a.js'
): CpuProfile['nodes'][number]['callFrame'] => ({
  functionName,
  url,
  lineNumber: 6
})

const profile: CpuProfile = {
  nodes: [
    { id: 1, callFrame: at('(root)', ''), children: [2, 3, 5] },
    { id: 2, callFrame: at('send'), children: [4] },
    { id: 3, callFrame: at('(idle)', '') },
    { id: 4, callFrame: at('encode<T>') },
    { id: 5, callFrame: at('send') }
  ],
  samples: [2, 4, 4, 3, 5],
  timeDeltas: [1000, 2000, 2000, 90_000, 3000]
}

t.test('width is busy time, and calls from the same stack are one frame', async t => {
  const root = flameOf(profile)

  t.equal(root.totalUs, 8000)
  t.equal(root.children.size, 1)
  t.same(topSelf(root), [
    ' 50.0 %       4 ms  send  common/dist/src/a.js:7',
    ' 50.0 %       4 ms  encode<T>  common/dist/src/a.js:7'
  ])
})

t.test('names are escaped in the picture', async t => {
  const svg = flameSvg(flameOf(profile), 'a < b')

  t.match(svg, 'encode&lt;T&gt;')
  t.match(svg, 'a &lt; b')
  t.notMatch(svg, 'encode<T>')
})
