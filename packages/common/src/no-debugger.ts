/**
 * Imported first, for its effect: SIGUSR1 opens no debugger. Node opens one on 127.0.0.1 at this signal, where whoever
 * reaches it (a neighbour in the pod's network, with hostNetwork everybody on the node) runs code with our keys. A
 * listener takes the place of Node's own handler.
 */
process.on('SIGUSR1', () => {})
