package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"

	"github.com/creack/pty"
	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// runtime is what a container runtime does for the streaming server: a real process per exec, the container's
// own streams for attach, a TCP connection to the pod for port-forward.
type runtime struct{ node *node }

func (r *runtime) Exec(ctx context.Context, id string, argv []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c := r.node.containers[id]
	command := c.command(ctx, argv)
	if tty {
		terminal, err := pty.Start(command)
		if err != nil {
			return err
		}
		defer terminal.Close()
		go resizeTerminal(terminal, resize)
		if in != nil {
			go func() { _, _ = io.Copy(terminal, in) }()
		}
		_, _ = io.Copy(out, terminal)
		return exitCode(command.Wait())
	}
	// Interfaces that hold a nil pointer are not nil: only what was asked for is set.
	if out != nil {
		command.Stdout = out
	}
	if errOut != nil {
		command.Stderr = errOut
	}
	if in != nil {
		stdin, err := command.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	return exitCode(command.Run())
}

// exitCode turns the end of a process into the error that the streaming server reports as an exit code.
func exitCode(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode()
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: code}
	}
	return err
}

func (r *runtime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c := r.node.containers[id]
	_, _, stdin, terminal, ended := c.state()
	v := &viewer{done: make(chan struct{})}
	if out != nil {
		v.stdout = out
	}
	if errOut != nil {
		v.stderr = errOut
	}
	defer c.add(v)()
	if terminal != nil {
		go resizeTerminal(terminal, resize)
	}
	if in != nil && stdin != nil {
		go func() {
			_, err := io.Copy(stdin, in)
			if terminal == nil && err == nil {
				_ = stdin.Close() // stdinOnce: the first who attaches also ends the input
			}
		}()
	}
	select {
	case <-ctx.Done():
	case <-ended:
	case <-v.done:
	}
	return nil
}

func resizeTerminal(terminal *os.File, resize <-chan remotecommand.TerminalSize) {
	for size := range resize {
		_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
	}
}

func (r *runtime) PortForward(ctx context.Context, podKey string, port int32, stream io.ReadWriteCloser) error {
	pod := r.node.pods[podKey]
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(pod.IP, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}

// serveExec, serveAttach and servePortForward do what the kubelet does: ask the runtime's streaming server for a
// URL and proxy the upgraded connection there, translating WebSocket into SPDY where kube-apiserver did not.
func (n *node) serveExec(w http.ResponseWriter, r *http.Request) {
	c := n.containerOf(w, r)
	if c == nil {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := n.streaming.GetExec(&runtimeapi.ExecRequest{
		ContainerId: c.id, Cmd: r.Form["command"],
		Tty: options.TTY, Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr,
	})
	n.proxyCommand(w, r, options, answer.GetUrl(), err)
}

func (n *node) serveAttach(w http.ResponseWriter, r *http.Request) {
	c := n.containerOf(w, r)
	if c == nil {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := n.streaming.GetAttach(&runtimeapi.AttachRequest{
		ContainerId: c.id,
		Tty:         options.TTY, Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr,
	})
	n.proxyCommand(w, r, options, answer.GetUrl(), err)
}

func (n *node) proxyCommand(w http.ResponseWriter, r *http.Request, options *remotecommand.Options, address string, err error) {
	location := n.locationOf(w, address, err)
	if location == nil {
		return
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, nil, false, true, failure{})
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		n.count("websocket")
		handler = translator.NewStreamTranslatorHandler(location, nil, 0, translator.Options{
			Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, Tty: options.TTY,
		})
	} else {
		n.count("spdy")
	}
	handler.ServeHTTP(w, r)
}

func (n *node) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod := n.podOf(w, r)
	if pod == nil {
		return
	}
	tunnelled := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	options := &portforward.V4Options{}
	if !tunnelled {
		var err error
		if options, err = portforward.NewV4Options(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	answer, err := n.streaming.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: podKey(pod), Port: options.Ports})
	location := n.locationOf(w, answer.GetUrl(), err)
	if location == nil {
		return
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, nil, false, true, failure{})
	if tunnelled {
		n.count("websocket")
		handler = translator.NewTunnelingHandler(handler)
	} else {
		n.count("spdy")
	}
	handler.ServeHTTP(w, r)
}

func (n *node) locationOf(w http.ResponseWriter, address string, err error) *url.URL {
	if err == nil {
		var location *url.URL
		if location, err = url.Parse(address); err == nil {
			return location
		}
	}
	_ = streaming.WriteError(err, w)
	return nil
}

type failure struct{}

func (failure) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
