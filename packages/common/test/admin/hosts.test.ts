import t from 'tap'
import { isHostAllowed } from '../../src/admin/hosts.js'

const allowed = ['*.svc', 'tendril.Example.org']

t.test('addresses, names without a dot and names of the list are answered', async t => {
  for (const host of [
    undefined,
    '127.0.0.1',
    '127.0.0.1:8095',
    '10.1.2.3',
    '[::1]',
    '[fd00::1]:8095',
    'localhost',
    'localhost:8095',
    'LOCALHOST',
    'localhost.',
    'seed-server:8095',
    'tendril.kube-system.svc',
    'Tendril.Kube-System.SVC.:8095',
    'tendril.example.org'
  ]) {
    t.ok(isHostAllowed(host, allowed), String(host))
  }
})

t.test('any other name is not, nor what is no name', async t => {
  for (const host of [
    'evil.example',
    'evil.example:8095',
    '.svc',
    'a.svc.evil.example',
    'tendril.example.org.evil.example',
    'sub.tendril.example.org',
    '127.0.0.1.evil.example',
    '127.0.0.1@evil.example',
    '[::1',
    '[evil.example]',
    '[127.0.0.1]',
    'a b.svc',
    '',
    'localhost:8095:1'
  ]) {
    t.notOk(isHostAllowed(host, allowed), host)
  }
})
