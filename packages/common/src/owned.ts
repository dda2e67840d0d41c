/**
 * The owner of a socket between two steps of an attempt to connect: whatever the next step throws, at once or later,
 * the socket is destroyed. A step that returns has taken it over.
 */
type Destroyable = { destroy(): unknown }

export async function owned<S extends Destroyable, T>(
  socket: S,
  step: (socket: S) => T | Promise<T>
): Promise<T> {
  try {
    return await step(socket)
  } catch (error) {
    socket.destroy()
    throw error
  }
}
