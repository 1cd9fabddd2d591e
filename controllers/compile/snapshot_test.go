package compile_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// values is the part of a Snapshot that is no API object, in the form of a document of kind Snapshot.
type values struct {
	metav1.TypeMeta `json:",inline"`
	SystemNamespace string        `json:"systemNamespace,omitempty"`
	TrustBundle     string        `json:"trustBundle,omitempty"`
	Numbers         []numberEntry `json:"numbers,omitempty"`
	Starting        []string      `json:"starting,omitempty"`
	// ServiceAccounts are "namespace/name".
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
}

type numberEntry struct {
	UID    types.UID `json:"uid"`
	Port   uint16    `json:"port"`
	Number uint16    `json:"number"`
}

// readSnapshot decodes YAML documents strictly. Of two objects of one kind and name the later counts.
func readSnapshot(documents ...[]byte) (compile.Snapshot, error) {
	var s compile.Snapshot
	for _, document := range documents {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(document, &head); err != nil {
			return s, err
		}
		var err error
		switch head.Kind {
		case "Snapshot":
			err = readValues(document, &s)
		case "Mesh":
			s.Mesh = &meshv1alpha1.Mesh{}
			err = yaml.UnmarshalStrict(document, s.Mesh)
		case "Namespace":
			err = readObject(document, &s.Namespaces)
		case "Service":
			err = readObject(document, &s.Services)
		case "HTTPRoute":
			err = readObject(document, &s.HTTPRoutes)
		case "GRPCRoute":
			err = readObject(document, &s.GRPCRoutes)
		case "MeshPolicy":
			err = readObject(document, &s.MeshPolicies)
		case "MeshAuthorization":
			err = readObject(document, &s.MeshAuthorizations)
		case "EndpointSlice":
			err = readObject(document, &s.EndpointSlices)
		case "Pod": // no part of a Snapshot: see inboundsOf
		default:
			err = fmt.Errorf("unknown kind %q", head.Kind)
		}
		if err != nil {
			return s, fmt.Errorf("%w in:\n%s", err, document)
		}
	}
	return s, nil
}

func readValues(document []byte, s *compile.Snapshot) error {
	var v values
	if err := yaml.UnmarshalStrict(document, &v); err != nil {
		return err
	}
	if v.SystemNamespace != "" {
		s.SystemNamespace = v.SystemNamespace
	}
	if v.TrustBundle != "" {
		s.TrustBundle = v.TrustBundle
	}
	for _, e := range v.Numbers {
		if s.Numbers == nil {
			s.Numbers = compile.Numbers{}
		}
		s.Numbers[compile.NumberKey{UID: e.UID, Port: e.Port}] = e.Number
	}
	for _, account := range v.ServiceAccounts {
		if s.ServiceAccounts == nil {
			s.ServiceAccounts = map[types.NamespacedName]bool{}
		}
		namespace, name, _ := strings.Cut(account, "/")
		s.ServiceAccounts[types.NamespacedName{Namespace: namespace, Name: name}] = true
	}
	for _, namespace := range v.Starting {
		if s.Starting == nil {
			s.Starting = map[string]bool{}
		}
		s.Starting[namespace] = true
	}
	return nil
}

func readObject[T any, P interface {
	*T
	metav1.Object
}](document []byte, list *[]P) error {
	object := P(new(T))
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	*list = slices.DeleteFunc(*list, func(o P) bool {
		return o.GetNamespace() == object.GetNamespace() && o.GetName() == object.GetName()
	})
	*list = append(*list, object)
	return nil
}

// splitDocuments separates the documents of a file; what stands before the first is left out.
func splitDocuments(file []byte) [][]byte {
	_, rest, _ := bytes.Cut(file, []byte("\n---\n"))
	var documents [][]byte
	for document := range strings.SplitSeq(string(rest), "\n---\n") {
		if strings.TrimSpace(document) != "" {
			documents = append(documents, []byte(document))
		}
	}
	return documents
}

func defaults(t testing.TB) [][]byte {
	t.Helper()
	file, err := os.ReadFile("testdata/_defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return splitDocuments(file)
}

// deepCopy copies a snapshot with everything in it.
func deepCopy(s compile.Snapshot) compile.Snapshot {
	out := s
	out.Mesh = s.Mesh.DeepCopy()
	out.Namespaces = copies(s.Namespaces, (*corev1.Namespace).DeepCopy)
	out.Services = copies(s.Services, (*corev1.Service).DeepCopy)
	out.HTTPRoutes = copies(s.HTTPRoutes, (*gwv1.HTTPRoute).DeepCopy)
	out.GRPCRoutes = copies(s.GRPCRoutes, (*gwv1.GRPCRoute).DeepCopy)
	out.MeshPolicies = copies(s.MeshPolicies, (*meshv1alpha1.MeshPolicy).DeepCopy)
	out.MeshAuthorizations = copies(s.MeshAuthorizations, (*meshv1alpha1.MeshAuthorization).DeepCopy)
	out.ServiceAccounts = maps.Clone(s.ServiceAccounts)
	out.EndpointSlices = copies(s.EndpointSlices, (*discoveryv1.EndpointSlice).DeepCopy)
	if s.Numbers != nil {
		out.Numbers = compile.Numbers{}
		for k, v := range s.Numbers {
			out.Numbers[k] = v
		}
	}
	out.Starting = maps.Clone(s.Starting)
	return out
}

func copies[T any](list []*T, deepCopy func(*T) *T) []*T {
	if list == nil {
		return nil
	}
	out := make([]*T, len(list))
	for i, o := range list {
		out[i] = deepCopy(o)
	}
	return out
}

// shuffled returns a snapshot with the same objects in lists of another order.
func shuffled(s compile.Snapshot, rng *rand.Rand) compile.Snapshot {
	s.Namespaces = shuffle(s.Namespaces, rng)
	s.Services = shuffle(s.Services, rng)
	s.HTTPRoutes = shuffle(s.HTTPRoutes, rng)
	s.GRPCRoutes = shuffle(s.GRPCRoutes, rng)
	s.MeshPolicies = shuffle(s.MeshPolicies, rng)
	s.MeshAuthorizations = shuffle(s.MeshAuthorizations, rng)
	s.EndpointSlices = shuffle(s.EndpointSlices, rng)
	return s
}

func shuffle[T any](list []T, rng *rand.Rand) []T {
	out := slices.Clone(list)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
