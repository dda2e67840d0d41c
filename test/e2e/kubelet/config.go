package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// config is one node: where it listens, whom it trusts, and the pods it runs. The test writes it as JSON.
type config struct {
	NodeName string `json:"nodeName"`
	// Listen is the node address and port that kube-apiserver reads from the Node object.
	Listen string `json:"listen"`
	Cert   string `json:"cert"`
	Key    string `json:"key"`
	// ClientCa signs kube-apiserver's kubelet client certificate; nobody else is answered.
	ClientCa string `json:"clientCa"`
	// Dir holds container logs (in the CRI format) and the containers' working directories.
	Dir  string      `json:"dir"`
	Pods []podConfig `json:"pods"`
}

type podConfig struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	UID        string            `json:"uid"`
	IP         string            `json:"ip"`
	Containers []containerConfig `json:"containers"`
}

type containerConfig struct {
	Name    string            `json:"name"`
	Command []string          `json:"command"`
	Env     map[string]string `json:"env"`
	// Stdin keeps the container's standard input open for attach; Tty gives it a terminal.
	Stdin bool `json:"stdin"`
	Tty   bool `json:"tty"`
}

func loadConfig(path string) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	loaded := &config{}
	if err := json.Unmarshal(data, loaded); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Join(loaded.Dir, "logs"), 0o755); err != nil {
		return nil, err
	}
	return loaded, nil
}
