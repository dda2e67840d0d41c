/**
 * A pod that serves two admission webhooks on POD_IP:8443: /mutate annotates what it sees, /validate refuses what is
 * labelled "e2e.tendril/refuse". TLS_CERT and TLS_KEY name its certificate.
 */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'

const PORT = 8443

type Review = {
  apiVersion: string
  kind: string
  request: { uid: string; object: { metadata: { annotations?: object; labels?: Record<string, string> } } }
}

createServer(
  { cert: readFileSync(process.env['TLS_CERT']!), key: readFileSync(process.env['TLS_KEY']!) },
  (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const review = JSON.parse(Buffer.concat(chunks).toString()) as Review
      const answer = request.url?.startsWith('/mutate') ? mutate(review) : validate(review)
      const { apiVersion, kind } = review
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ apiVersion, kind, response: { uid: review.request.uid, ...answer } }))
    })
  }
).listen(PORT, process.env['POD_IP'])

function mutate({ request }: Review): object {
  const annotations = {
    ...request.object.metadata.annotations,
    'e2e.tendril/seen-by': process.env['HOSTNAME']
  }
  const patch = [{ op: 'add', path: '/metadata/annotations', value: annotations }]
  return {
    allowed: true,
    patchType: 'JSONPatch',
    patch: Buffer.from(JSON.stringify(patch)).toString('base64')
  }
}

function validate({ request }: Review): object {
  const refused = request.object.metadata.labels?.['e2e.tendril/refuse'] === 'true'
  return refused
    ? { allowed: false, status: { message: 'refused by the webhook in the shoot' } }
    : { allowed: true }
}
