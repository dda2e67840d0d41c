// The kubelet's side of the end-to-end test: answers on HTTPS what kube-apiserver asks of a kubelet, and runs "pods"
// as plain processes in the network namespace it was started in. It is not a kubelet: it registers nothing, watches
// nothing and isolates nothing. Streaming, log reading and WebSocket translation are the kubelet's own libraries.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"k8s.io/cri-streaming/pkg/streaming"
)

// node is everything one fake node consists of.
type node struct {
	config     *config
	pods       map[string]*podConfig
	containers map[string]*container
	streaming  streaming.Server

	mu     sync.Mutex
	counts map[string]int
}

func main() {
	path := flag.String("config", "", "file with the node's configuration (JSON)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *path); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, path string) error {
	loaded, err := loadConfig(path)
	if err != nil {
		return err
	}
	n := &node{
		config: loaded, pods: map[string]*podConfig{}, containers: map[string]*container{}, counts: map[string]int{},
	}
	if err := n.serveStreams(ctx); err != nil {
		return err
	}
	var running sync.WaitGroup
	for i := range loaded.Pods {
		pod := &loaded.Pods[i]
		n.pods[podKey(pod)] = pod
		for j := range pod.Containers {
			c, err := newContainer(loaded.Dir, pod, &pod.Containers[j])
			if err != nil {
				return err
			}
			n.containers[c.id] = c
			running.Go(func() { c.keepRunning(ctx) })
		}
	}
	defer running.Wait()
	return n.serve(ctx)
}

// serveStreams starts the runtime's streaming server on loopback, where container runtimes have it.
func (n *node) serveStreams(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	settings := streaming.DefaultConfig
	settings.Addr = listener.Addr().String()
	settings.BaseURL = &url.URL{Scheme: "http", Host: settings.Addr}
	if n.streaming, err = streaming.NewServer(settings, &runtime{n}); err != nil {
		return err
	}
	return serveUntil(ctx, listener, n.streaming)
}

func (n *node) serve(ctx context.Context) error {
	authority, err := os.ReadFile(n.config.ClientCa)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority)
	identity, err := tls.LoadX509KeyPair(n.config.Cert, n.config.Key)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", n.config.Listen, &tls.Config{
		Certificates: []tls.Certificate{identity}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	})
	if err != nil {
		return err
	}
	if err := serveUntil(ctx, listener, n.routes()); err != nil {
		return err
	}
	log.Printf("node %s serves on %s", n.config.NodeName, n.config.Listen)
	<-ctx.Done()
	return nil
}

// serveUntil serves in the background and closes everything when the context is done.
func serveUntil(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			log.Fatal(err)
		}
	}()
	return nil
}

func (n *node) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", n.serveLogs)
	// With and without the pod's uid, by GET (WebSocket) and POST (SPDY).
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", n.serveExec)
	mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", n.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", n.serveAttach)
	mux.HandleFunc("/attach/{namespace}/{pod}/{uid}/{container}", n.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", n.servePortForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", n.servePortForward)
	mux.HandleFunc("GET /pods", n.servePods)
	mux.HandleFunc("GET /stats/summary", n.serveSummary)
	mux.HandleFunc("GET /metrics", n.serveMetrics)
	mux.HandleFunc("GET /metrics/resource", n.serveResourceMetrics)
	return mux
}

func podKey(pod *podConfig) string { return pod.Namespace + "_" + pod.Name }

// podOf and containerOf find what a path names; where it names nothing, they have answered 404 and return nil.
func (n *node) podOf(w http.ResponseWriter, r *http.Request) *podConfig {
	pod := n.pods[r.PathValue("namespace")+"_"+r.PathValue("pod")]
	if pod == nil || (r.PathValue("uid") != "" && r.PathValue("uid") != pod.UID) {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return nil
	}
	return pod
}

func (n *node) containerOf(w http.ResponseWriter, r *http.Request) *container {
	pod := n.podOf(w, r)
	if pod == nil {
		return nil
	}
	c := n.containers[podKey(pod)+"_"+r.PathValue("container")]
	if c == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", r.PathValue("container"), pod.Name), http.StatusNotFound)
	}
	return c
}

func (n *node) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[what]++
}
