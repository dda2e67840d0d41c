package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Linux reports process times in ticks of 1/100 s to user space, whatever the kernel's own rate.
const ticksPerSecond = 100

// usage is what one process has used so far.
type usage struct {
	cpuSeconds  float64
	memoryBytes uint64
}

// usageOf reads /proc; a process that is gone has used nothing.
func usageOf(pid int) usage {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}
	}
	// proc(5): the command in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	pages, _ := strconv.ParseUint(fields[21], 10, 64)
	return usage{cpuSeconds: (user + system) / ticksPerSecond, memoryBytes: pages * uint64(os.Getpagesize())}
}

// sorted returns the containers in a stable order.
func (n *node) sorted() []*container {
	containers := make([]*container, 0, len(n.containers))
	for _, c := range n.containers {
		containers = append(containers, c)
	}
	slices.SortFunc(containers, func(a, b *container) int { return strings.Compare(a.id, b.id) })
	return containers
}

func (n *node) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, pod := range n.config.Pods {
		list.Items = append(list.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)},
			Spec:       corev1.PodSpec{NodeName: n.config.NodeName},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: pod.IP},
		})
	}
	answerJSON(w, list)
}

func (n *node) serveSummary(w http.ResponseWriter, _ *http.Request) {
	now := metav1.Now()
	summary := stats.Summary{Node: stats.NodeStats{NodeName: n.config.NodeName, StartTime: now}}
	pods := map[string]int{}
	for _, c := range n.sorted() {
		pid, started, _, _, _ := c.state()
		used := usageOf(pid)
		nanoseconds := uint64(used.cpuSeconds * 1e9)
		at, found := pods[podKey(c.pod)]
		if !found {
			at = len(summary.Pods)
			pods[podKey(c.pod)] = at
			summary.Pods = append(summary.Pods, stats.PodStats{
				PodRef:    stats.PodReference{Namespace: c.pod.Namespace, Name: c.pod.Name, UID: c.pod.UID},
				StartTime: metav1.NewTime(started),
			})
		}
		summary.Pods[at].Containers = append(summary.Pods[at].Containers, stats.ContainerStats{
			Name: c.config.Name, StartTime: metav1.NewTime(started),
			CPU:    &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &nanoseconds},
			Memory: &stats.MemoryStats{Time: now, WorkingSetBytes: &used.memoryBytes},
		})
	}
	answerJSON(w, summary)
}

// serveMetrics tells how many streams came by which protocol, so that the test knows that it saw both.
func (n *node) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(w, "# TYPE kubelet_running_pods gauge\nkubelet_running_pods %d\n", len(n.pods))
	fmt.Fprintln(w, "# TYPE e2e_streams_total counter")
	for _, protocol := range []string{"spdy", "websocket"} {
		fmt.Fprintf(w, "e2e_streams_total{protocol=%q} %d\n", protocol, n.counts[protocol])
	}
}

// serveResourceMetrics is what metrics-server reads: totals per container and for the node.
func (n *node) serveResourceMetrics(w http.ResponseWriter, _ *http.Request) {
	now := time.Now().UnixMilli()
	var total usage
	var lines strings.Builder
	for _, c := range n.sorted() {
		pid, _, _, _, _ := c.state()
		used := usageOf(pid)
		total.cpuSeconds += used.cpuSeconds
		total.memoryBytes += used.memoryBytes
		labels := fmt.Sprintf("container=%q,namespace=%q,pod=%q", c.config.Name, c.pod.Namespace, c.pod.Name)
		fmt.Fprintf(&lines, "container_cpu_usage_seconds_total{%s} %g %d\n", labels, used.cpuSeconds, now)
		fmt.Fprintf(&lines, "container_memory_working_set_bytes{%s} %d %d\n", labels, used.memoryBytes, now)
	}
	fmt.Fprintf(&lines, "node_cpu_usage_seconds_total %g %d\n", total.cpuSeconds, now)
	fmt.Fprintf(&lines, "node_memory_working_set_bytes %d %d\n", total.memoryBytes, now)
	fmt.Fprint(w, lines.String())
}

func answerJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
