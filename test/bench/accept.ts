/**
 * Accepts sockets that read into a buffer of ours. `net.createServer` knows no `onread`, and Node's own 64 KiB
 * allocation per read halves what one process can receive; so the accepted handle moves into a new Socket. Only
 * for the bench's own processes: it leans on an inside of `net` that the product must not lean on.
 */
import { createServer, Socket, type OnReadOpts, type Server, type SocketConstructorOpts } from 'node:net'

type Inside = { _handle: object | null }

/**
 * @param handler gives the reading half of each new connection; `socket()` inside its callbacks is that
 * connection, and `begin` is called once with it before anything is read.
 */
export function acceptServer(handler: () => { onread: OnReadOpts; begin(socket: Socket): void }): Server {
  return createServer({ pauseOnConnect: true }, accepted => {
    const { onread, begin } = handler()
    const inside = accepted as unknown as Inside
    const options: SocketConstructorOpts & { handle: object | null; onread: OnReadOpts } = {
      handle: inside._handle,
      allowHalfOpen: true,
      onread
    }
    inside._handle = null
    const socket = new Socket(options)
    socket.setNoDelay(true)
    begin(socket)
    socket.resume()
    socket.read(0)
  })
}
