package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// restartDelay is how long a container that ended stays down.
const restartDelay = 200 * time.Millisecond

// container is one process that is started again whenever it ends. Its output goes to its log and to everyone
// who is attached; its standard input, where it has one, is shared by those who attach.
type container struct {
	pod    *podConfig
	config *containerConfig
	id     string
	dir    string
	log    *logFile

	mu       sync.Mutex
	pid      int
	started  time.Time
	stdin    io.WriteCloser
	terminal *os.File
	ended    chan struct{}
	viewers  map[*viewer]struct{}
}

// viewer is one attached client. Done is closed when it stops reading.
type viewer struct {
	stdout, stderr io.Writer
	once           sync.Once
	done           chan struct{}
}

func (v *viewer) leave() { v.once.Do(func() { close(v.done) }) }

func newContainer(root string, pod *podConfig, spec *containerConfig) (*container, error) {
	id := pod.Namespace + "_" + pod.Name + "_" + spec.Name
	dir := filepath.Join(root, "containers", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	logs, err := openLogFile(filepath.Join(root, "logs", id+".log"))
	if err != nil {
		return nil, err
	}
	return &container{
		pod: pod, config: spec, id: id, dir: dir, log: logs,
		ended: make(chan struct{}), viewers: map[*viewer]struct{}{},
	}, nil
}

// keepRunning starts the process, waits for its end, and starts it again until the context is done.
func (c *container) keepRunning(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.runOnce(ctx); err != nil && ctx.Err() == nil {
			log.Printf("container %s: %v", c.id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartDelay):
		}
	}
}

func (c *container) runOnce(ctx context.Context) error {
	command := c.command(ctx, c.config.Command)
	if c.config.Tty {
		return c.runOnTerminal(command)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := command.StderrPipe()
	if err != nil {
		return err
	}
	var stdin io.WriteCloser
	if c.config.Stdin {
		if stdin, err = command.StdinPipe(); err != nil {
			return err
		}
	}
	if err := command.Start(); err != nil {
		return err
	}
	c.becomeRunning(command.Process.Pid, stdin, nil)
	defer c.becomeEnded()

	var readers sync.WaitGroup
	readers.Go(func() { c.publish("stdout", stdout) })
	readers.Go(func() { c.publish("stderr", stderr) })
	readers.Wait()
	return command.Wait()
}

func (c *container) runOnTerminal(command *exec.Cmd) error {
	terminal, err := pty.Start(command)
	if err != nil {
		return err
	}
	defer terminal.Close()
	c.becomeRunning(command.Process.Pid, terminal, terminal)
	defer c.becomeEnded()
	c.publish("stdout", terminal)
	return command.Wait()
}

// command is a process in the container's place: its directory, its environment, and never outliving this one.
func (c *container) command(ctx context.Context, argv []string) *exec.Cmd {
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Dir = c.dir
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "HOSTNAME=" + c.pod.Name, "POD_IP=" + c.pod.IP, "TERM=xterm",
	}
	for key, value := range c.config.Env {
		command.Env = append(command.Env, key+"="+value)
	}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// publish copies one output stream into the log and to the viewers, until the stream ends.
func (c *container) publish(stream string, from io.Reader) {
	buffer := make([]byte, 32*1024)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			c.log.write(stream, buffer[:n])
			for _, v := range c.currentViewers() {
				to := v.stdout
				if stream == "stderr" {
					to = v.stderr
				}
				if to == nil {
					continue
				}
				if _, err := to.Write(buffer[:n]); err != nil {
					v.leave()
				}
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *container) currentViewers() []*viewer {
	c.mu.Lock()
	defer c.mu.Unlock()
	viewers := make([]*viewer, 0, len(c.viewers))
	for v := range c.viewers {
		viewers = append(viewers, v)
	}
	return viewers
}

// add makes a viewer hear the output from now on, and returns what ends that.
func (c *container) add(v *viewer) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.viewers[v] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.viewers, v)
	}
}

func (c *container) becomeRunning(pid int, stdin io.WriteCloser, terminal *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid, c.started, c.stdin, c.terminal, c.ended = pid, time.Now(), stdin, terminal, make(chan struct{})
}

func (c *container) becomeEnded() {
	c.log.endLine()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid, c.stdin, c.terminal = 0, nil, nil
	close(c.ended)
}

// state is what a viewer needs of the process that runs now; pid is 0 between two runs.
func (c *container) state() (pid int, started time.Time, stdin io.WriteCloser, terminal *os.File, ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid, c.started, c.stdin, c.terminal, c.ended
}
