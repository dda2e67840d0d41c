/**
 * A V8 .cpuprofile as a flame graph in SVG and as a list of where time was spent itself. Roots are at the top and
 * width is time; frames too narrow to be seen are left out. Hover shows name, place and share.
 */
import { escapeXml, STYLE } from './svg.js'

type ProfileNode = {
  id: number
  callFrame: { functionName: string; url: string; lineNumber: number }
  children?: number[]
}

/** What Node's --cpu-prof writes (Chrome DevTools Protocol, Profiler.Profile). Times are microseconds. */
export type CpuProfile = { nodes: ProfileNode[]; samples: number[]; timeDeltas: number[] }

type Frame = { label: string; place: string; selfUs: number; totalUs: number; children: Map<string, Frame> }

const WIDTH = 1200
const ROW = 17
const TOP = 40
const MIN_WIDTH = 1
const CHARACTER = 6.6
const LEGEND_WIDTH = 440
const LEGEND = [
  { kind: 'own', name: 'tendril' },
  { kind: 'lib', name: 'libraries' },
  { kind: 'node', name: 'node' },
  { kind: 'native', name: 'native and GC' }
] as const
/** Not work of the program: V8's pseudo frames for waiting and for the profiler's own start. */
const NOT_WORK = new Set(['(idle)', '(program)', '(root)'])

/** Merges what was called from the same stack of functions. `(idle)` is left out: width is busy time. */
export function flameOf(profile: CpuProfile): Frame {
  const nodes = new Map(profile.nodes.map(node => [node.id, node]))
  const selfUs = new Map<number, number>()
  profile.samples.forEach((id, index) => {
    selfUs.set(id, (selfUs.get(id) ?? 0) + Math.max(0, profile.timeDeltas[index] ?? 0))
  })
  const build = (frame: Frame, node: ProfileNode): void => {
    frame.selfUs += selfUs.get(node.id) ?? 0
    for (const id of node.children ?? []) {
      const child = nodes.get(id)
      if (!child || child.callFrame.functionName === '(idle)') continue
      const { functionName, url, lineNumber } = child.callFrame
      const key = `${functionName} ${url}:${lineNumber}`
      const known =
        frame.children.get(key) ?? newFrame(functionName || '(anonymous)', placeOf(url, lineNumber))
      frame.children.set(key, known)
      build(known, child)
    }
  }
  const root = newFrame('busy', '')
  const first = profile.nodes[0]
  if (first) build(root, first)
  addUp(root)
  return root
}

/** @returns lines of `share  self ms  function  place`, the most expensive first. */
export function topSelf(root: Frame, count = 20): string[] {
  const byFunction = new Map<string, number>()
  const visit = (frame: Frame): void => {
    const key = `${frame.label}  ${frame.place}`.trim()
    if (frame.selfUs > 0) byFunction.set(key, (byFunction.get(key) ?? 0) + frame.selfUs)
    for (const child of frame.children.values()) visit(child)
  }
  visit(root)
  return [...byFunction]
    .sort(([, a], [, b]) => b - a)
    .slice(0, count)
    .map(([key, us]) => {
      const share = root.totalUs > 0 ? (us * 100) / root.totalUs : 0
      return `${share.toFixed(1).padStart(5)} %  ${(us / 1000).toFixed(0).padStart(6)} ms  ${key}`
    })
}

export function flameSvg(root: Frame, title: string): string {
  const parts: string[] = []
  let deepest = 0
  const draw = (frame: Frame, x: number, depth: number): void => {
    const width = (frame.totalUs / Math.max(1, root.totalUs)) * WIDTH
    if (width < MIN_WIDTH) return
    deepest = Math.max(deepest, depth)
    const y = TOP + depth * ROW
    const share = ((frame.totalUs * 100) / Math.max(1, root.totalUs)).toFixed(1)
    const characters = Math.floor((width - 4) / CHARACTER)
    const label = frame.label.length <= characters ? frame.label : `${frame.label.slice(0, characters - 1)}…`
    parts.push(
      `<g><title>${escapeXml(`${frame.label} ${frame.place} ${share} %, ${(frame.totalUs / 1000).toFixed(0)} ms`)}</title>` +
        `<rect class="${kindOf(frame)}" x="${x.toFixed(1)}" y="${y}" width="${Math.max(0.4, width - 0.5).toFixed(1)}" height="${ROW - 1}"/>` +
        (characters >= 3
          ? `<text class="in" x="${(x + 3).toFixed(1)}" y="${y + 12}">${escapeXml(label)}</text>`
          : '') +
        '</g>'
    )
    let left = x
    for (const child of [...frame.children.values()].sort((a, b) => a.label.localeCompare(b.label))) {
      draw(child, left, depth + 1)
      left += (child.totalUs / Math.max(1, root.totalUs)) * WIDTH
    }
  }
  draw(root, 0, 0)
  const height = TOP + (deepest + 2) * ROW
  const kinds = LEGEND.map(({ kind, name }, index) => {
    const left = WIDTH - LEGEND_WIDTH + index * 105
    return `<rect class="${kind}" x="${left}" y="12" width="11" height="11"/><text x="${left + 16}" y="22">${name}</text>`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}">`,
    `<style>${STYLE}.own{fill:#f2a65a}.lib{fill:#8fc9a3}.node{fill:#9db8e0}.native{fill:#c9c9c9}text.in{font-size:11px;fill:#1f2328}</style>`,
    `<rect class="page" width="${WIDTH}" height="${height}"/>`,
    `<text class="title" x="8" y="24">${escapeXml(title)}</text>`,
    ...kinds,
    ...parts,
    '</svg>',
    ''
  ].join('\n')
}

const newFrame = (label: string, place: string): Frame => ({
  label,
  place,
  selfUs: 0,
  totalUs: 0,
  children: new Map()
})

function addUp(frame: Frame): number {
  frame.totalUs = frame.selfUs
  for (const child of frame.children.values()) frame.totalUs += addUp(child)
  return frame.totalUs
}

/** The end of the path is enough to find a file: `ws/lib/sender.js:212`. */
function placeOf(url: string, lineNumber: number): string {
  if (url === '') return ''
  const path = url.replace(/^file:\/\//, '').replace(/^.*\/(node_modules|packages)\//, '')
  return `${path}:${lineNumber + 1}`
}

function kindOf({ label, place }: Frame): 'own' | 'lib' | 'node' | 'native' {
  if (NOT_WORK.has(label) || place === '') return 'native'
  if (place.startsWith('node:')) return 'node'
  return /^(common|seed-server|shoot-client)\/dist\//.test(place) ? 'own' : 'lib'
}
