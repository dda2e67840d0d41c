import t from 'tap'
import { nearest } from '../../src/config/nearest.js'

t.test('a mistyped word finds the one that was meant', async t => {
  const words = ['tunnel', 'fronts', 'clusters', 'clientCa', 'dialTimeout']
  for (const [typed, meant] of [
    ['tunel', 'tunnel'],
    ['tunnle', 'tunnel'],
    ['front', 'fronts'],
    ['client_ca', 'clientCa'],
    ['CLIENTCA', 'clientCa'],
    ['dial-timeout', 'dialTimeout'],
    ['diaTimout', 'dialTimeout']
  ] as const) {
    t.equal(nearest(typed, words), meant, typed)
  }
})

t.test('a word that is near to none finds none', async t => {
  t.equal(nearest('peers', ['tunnel', 'fronts']), undefined)
  t.equal(nearest('x', ['yz']), undefined)
  t.equal(nearest('tunnel', []), undefined)
})
