package main

import (
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a shell gets after a word was begun: the proposals, one a line, and then what to do with them.
func TestCompletion(t *testing.T) {
	other := &corev1.Service{ObjectMeta: named("front", "entry"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080}}}}
	pod := &corev1.Pod{ObjectMeta: named("shop", "web-1")}
	kubeconfig := filepath.Join(t.TempDir(), "config")
	writeFile(t, kubeconfig, "apiVersion: v1\nkind: Config\ncontexts: [{name: prod, context: {}}, {name: dev, context: {}}]\n")
	const noFiles, noFilesNoSpace, files = "4", "6", "0"
	for args, want := range map[string]string{
		"describe svc -n shop ":              "web:" + noFiles,
		"describe svc front/":                "front/entry:" + noFiles,
		"describe svc -n shop web ":          ":" + noFiles,
		"describe route -n shop ":            "mine,web:" + noFiles,
		"describe pod shop/":                 "shop/web-1:" + noFiles,
		"describe namespace ":                "shop:" + noFiles,
		"split shop/":                        "shop/mine,shop/web:" + noFiles,
		"tap shop/":                          "shop/web:" + noFiles,
		"proxy config ":                      "shop:" + noFiles,
		"authz can ":                         "shop/:" + noFilesNoSpace,
		"authz can shop/web-1 ":              "entry.front:8080,web.shop:80:" + noFiles,
		"check -n ":                          "shop:" + noFiles,
		"stat --by ":                         "backend,caller,namespace,route,service:" + noFiles,
		"check -o ":                          "wide,json,yaml:" + noFiles,
		"routes test ":                       ":" + files,
		"why ":                               ":" + noFiles,
		"check --kubeconfig FILE --context ": "dev,prod:" + noFiles,
		"proxy config shop --kind ":          strings.Join(configKinds, ",") + ":" + noFiles,
	} {
		w := &world{objects: append(installed(), webService(), other, pod, webRoute("web", "web"), webRoute("mine", "web"))}
		words := strings.Split(strings.ReplaceAll(args, "FILE", kubeconfig), " ")
		got := w.run(t, append([]string{"__complete"}, words...)...)
		lines := strings.Split(strings.TrimSpace(got.out), "\n")
		last := len(lines) - 1
		if have := strings.Join(lines[:last], ",") + lines[last]; have != want || got.code != exitOK {
			t.Errorf("%s: %q, want %q (exit code %d, %s)", args, have, want, got.code, got.err)
		}
	}
}
