package main

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/util/flushwriter"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
)

// maxLogLineBytes is where container runtimes cut one line into partial records.
const maxLogLineBytes = 16 * 1024

// logFile is a container log in the format that container runtimes write for the kubelet:
// "<time> <stream> <F|P> <line>", so that the kubelet's own reader can be used to serve it.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	open map[string]*bytes.Buffer
}

func openLogFile(path string) (*logFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, file: file, open: map[string]*bytes.Buffer{"stdout": {}, "stderr": {}}}, nil
}

// write appends output of one stream; what has no line end yet waits for it.
func (l *logFile) write(stream string, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.open[stream]
	open.Write(data)
	var records bytes.Buffer
	for {
		line := open.Bytes()
		end := bytes.IndexByte(line, '\n')
		switch {
		case end >= 0 && end <= maxLogLineBytes:
			record(&records, stream, "F", open.Next(end))
			open.Next(1)
		case len(line) >= maxLogLineBytes:
			record(&records, stream, "P", open.Next(maxLogLineBytes))
		default:
			// One write for all records: a reader that follows sees whole lines more often than not.
			_, _ = l.file.Write(records.Bytes())
			return
		}
	}
}

// endLine writes what a process left without a line end.
func (l *logFile) endLine() {
	for _, stream := range []string{"stdout", "stderr"} {
		if l.open[stream].Len() > 0 {
			l.write(stream, []byte("\n"))
		}
	}
}

func record(to *bytes.Buffer, stream, tag string, line []byte) {
	to.WriteString(time.Now().UTC().Format(time.RFC3339Nano))
	to.WriteString(" " + stream + " " + tag + " ")
	to.Write(line)
	to.WriteByte('\n')
}

// statusOnly is as much of a container runtime as the kubelet's log reader asks for: does the container run?
// Containers here are started again when they end, so that a follower is never told to stop.
type statusOnly struct{ criapi.RuntimeService }

func (statusOnly) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	status := &runtimeapi.ContainerStatus{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	return &runtimeapi.ContainerStatusResponse{Status: status}, nil
}

// serveLogs answers GET /containerLogs/{namespace}/{pod}/{container}.
func (n *node) serveLogs(w http.ResponseWriter, r *http.Request) {
	c := n.containerOf(w, r)
	if c == nil {
		return
	}
	options, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := flushwriter.Wrap(w)
	w.Header().Set("Transfer-Encoding", "chunked")
	if err := crilogs.ReadLogs(r.Context(), c.log.path, c.id, options, statusOnly{}, out, out); err != nil && r.Context().Err() == nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// logOptions reads the query that kube-apiserver makes of v1.PodLogOptions.
func logOptions(query url.Values) (*crilogs.LogOptions, error) {
	options := &crilogs.LogOptions{
		Follow: query.Get("follow") == "true", Timestamp: query.Get("timestamps") == "true",
	}
	number := func(name string) (*int64, error) {
		if query.Get(name) == "" {
			return nil, nil
		}
		value, err := strconv.ParseInt(query.Get(name), 10, 64)
		return &value, err
	}
	var err error
	if options.TailLines, err = number("tailLines"); err != nil {
		return nil, err
	}
	if options.LimitBytes, err = number("limitBytes"); err != nil {
		return nil, err
	}
	sinceSeconds, err := number("sinceSeconds")
	if err != nil {
		return nil, err
	}
	if sinceSeconds != nil {
		options.Since = time.Now().Add(-time.Duration(*sinceSeconds) * time.Second)
	}
	if sinceTime := query.Get("sinceTime"); sinceTime != "" {
		options.Since, err = time.Parse(time.RFC3339, sinceTime)
	}
	return options, err
}
