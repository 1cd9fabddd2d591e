package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// serveWebhook answers admission reviews with the certificate in a folder. It refuses each, and says who has seen
// it, and from where, so that the answer to a request to the API server shows that the webhook was called. Each
// call is a connection of its own.
func serveWebhook(l net.Listener, folder string) error {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(review), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
	}
	server.Protocols.SetHTTP1(true)
	server.SetKeepAlivesEnabled(false)
	return server.ServeTLS(l, "", "")
}

// review answers one admission review (admission.k8s.io/v1).
func review(w http.ResponseWriter, r *http.Request) {
	var question struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Request    struct {
			UID string `json:"uid"`
		} `json:"request"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&question); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	w.Header().Set("Content-Type", "application/json")
	// An API server that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": question.APIVersion, "kind": question.Kind,
		"response": map[string]any{
			"uid": question.Request.UID, "allowed": false,
			"status": map[string]any{"message": "reviewed by " + os.Getenv("POD_NAME") + " for " + host + "."},
		},
	})
}
