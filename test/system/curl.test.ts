/**
 * curl at the fronts of a whole deployment, as people try a tunnel out by hand: it proxies through TLS and Unix fronts and
 * says why not. Fronts alone are tried with curl in packages/seed-server/test/front/front-curl.test.ts.
 */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { deploy } from '../support/deployment.js'
import { requireTool } from '../support/child-process.js'
import { podTarget, refusedPort } from '../support/targets.js'

const run = promisify(execFile)

/** What curl prints, both outputs; its `-v` repeats the answer to CONNECT. */
async function curl(...args: string[]): Promise<string> {
  const all = ['-sS', '-v', '-p', '--noproxy', '', '--max-time', '20', ...args]
  const { stdout, stderr } = await run('curl', all).catch(
    (error: unknown) => error as { stdout: string; stderr: string }
  )
  return stdout + stderr
}

t.test('through a TLS front with a certificate, and told why not without', async t => {
  if (!requireTool(t, 'curl')) return
  const { pki, fronts, clients } = await deploy(t, { processes: true })
  const pod = await podTarget(t)
  const { port } = fronts['demo'] as { port: number }
  const proxy = ['-x', `https://localhost:${port}`, '--proxy-cacert', pki('ca.crt')]
  const own = ['--proxy-cert', pki('kube-apiserver.crt'), '--proxy-key', pki('kube-apiserver.key')]

  t.match(await curl(...proxy, ...own, `http://${pod.addr}/hello`), 'hello from the pod: GET /hello')
  t.match(
    await curl(...proxy, ...own, `http://127.0.0.1:${await refusedPort()}/`),
    /502 connection refused: 127\.0\.0\.1:\d+/
  )
  t.match(
    await curl(...proxy, ...own, 'http://169.254.169.254/'),
    "403 target denied: by the client's policy"
  )
  t.match(
    await curl(...proxy, `http://${pod.addr}/`),
    '407 caller not identified: no client certificate was presented'
  )

  await clients[0]!.stop()
  t.match(await curl(...proxy, ...own, `http://${pod.addr}/`), '503 no client connected for cluster demo')
})

t.test('through a Unix front behind a relay, for curl speaks to no Unix proxy itself', async t => {
  if (!requireTool(t, 'curl')) return
  const { fronts } = await deploy(t, { processes: true, front: 'unix' })
  const pod = await podTarget(t)
  const proxy = ['-x', `http://127.0.0.1:${await relayTo(t, fronts['demo'] as { path: string })}`]

  t.match(await curl(...proxy, `http://${pod.addr}/unix`), 'hello from the pod: GET /unix')
  t.match(
    await curl(...proxy, `http://127.0.0.1:${await refusedPort()}/`),
    /502 connection refused: 127\.0\.0\.1:\d+/
  )
})

async function relayTo(t: Test, front: { path: string }): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, near => {
    const far = connect({ ...front, allowHalfOpen: true })
    for (const socket of [near, far]) {
      socket.on('error', () => {})
      socket.once('close', () => {
        near.destroy()
        far.destroy()
      })
    }
    near.pipe(far).pipe(near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as AddressInfo).port
}
