package controllers

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

func TestPlainCallersAreToldOnceInAWhile(t *testing.T) {
	call := func(namespace, caller string) plainCall {
		return plainCall{at: compile.ServicePort{Namespace: namespace, Service: "web", Port: 80}, caller: caller}
	}
	recorder := events.NewFakeRecorder(100)
	var about []string
	find := func(name types.NamespacedName) *corev1.ObjectReference {
		about = append(about, name.String())
		return &corev1.ObjectReference{Kind: "Service", Namespace: name.Namespace, Name: name.Name}
	}
	mesh := &meshv1alpha1.Mesh{}
	notices := plainNotices{recorder: recorder}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	steps := []struct {
		what  string
		after time.Duration
		calls []plainCall
		// want are the namespaces of the Events; says is what one of them has in it.
		want []string
		says string
	}{
		{what: "nobody"},
		{"two at once", 0, []plainCall{call("shop", "192.0.2.1"), call("shop", "legacy/old")}, []string{"shop"}, "192.0.2.1 to web:80, legacy/old to web:80"},
		{"the same", time.Hour, []plainCall{call("shop", "192.0.2.1"), call("shop", "legacy/old")}, nil, ""},
		{"another, of another namespace too", time.Hour, []plainCall{call("bank", "192.0.2.1"), call("shop", "192.0.2.2"), call("shop", "legacy/old")}, []string{"bank", "shop"}, "192.0.2.2"},
		{"one more at once", time.Hour + time.Minute, []plainCall{call("shop", "192.0.2.2"), call("shop", "192.0.2.3")}, nil, ""},
		{"it is told later", time.Hour + 11*time.Minute, []plainCall{call("shop", "192.0.2.2"), call("shop", "192.0.2.3")}, []string{"shop"}, "192.0.2.3"},
		{"one that was gone", 3 * time.Hour, []plainCall{call("shop", "legacy/old")}, []string{"shop"}, "legacy/old"},
	}
	for _, step := range steps {
		about = nil
		notices.tell(mesh, step.calls, start.Add(step.after), find)
		got := took(recorder)
		for _, namespace := range step.want {
			if !strings.Contains(strings.Join(about, " "), namespace+"/web") {
				t.Errorf("%s: Events about %v, want one in %s", step.what, about, namespace)
			}
		}
		if len(got) != len(step.want) || !strings.Contains(strings.Join(got, "\n"), step.says) {
			t.Errorf("%s: Events %q, want %d and %q among them", step.what, got, len(step.want), step.says)
		}
	}

	mesh.Status.PlainCallers = []meshv1alpha1.NamespacePlainCallers{{Namespace: "shop", Top: []meshv1alpha1.PlainCaller{{Caller: "legacy/old", Service: "web:80"}}}}
	next := plainNotices{recorder: recorder}
	if next.tell(mesh, []plainCall{call("shop", "legacy/old")}, start, find); len(took(recorder)) != 0 {
		t.Error("the next leader tells again what the status has")
	}
}
