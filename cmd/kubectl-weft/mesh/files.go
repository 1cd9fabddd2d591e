package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// FileError says what is wrong with a file, and where.
type FileError struct {
	Position Position
	Err      error
}

// Error returns "file:line:column: what is wrong".
func (e *FileError) Error() string { return e.Position.String() + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FileError) Unwrap() error { return e.Err }

// FileOptions say how files are read.
type FileOptions struct {
	// Namespace is that of objects that name none. Default: "default".
	Namespace string
	// SystemNamespace is where Weft runs.
	SystemNamespace string
	// Stdin is read for the path "-".
	Stdin io.Reader
}

// Files reads a mesh from files and directories, of which every file is read whose name ends with .yaml,
// .yml or .json, those of directories below included. An object takes the place of an earlier one of its kind
// and name, as if it had been applied. A namespace that no file declares is taken as enrolled: files for
// `kubectl apply` rarely hold the namespace.
//
// Errors about the content of files are FileErrors.
func Files(paths []string, options FileOptions) (*Mesh, error) {
	if options.Namespace == "" {
		options.Namespace = metav1.NamespaceDefault
	}
	r := &reader{options: options, mesh: &Mesh{positions: map[Object]Position{}}}
	for _, path := range paths {
		if err := r.path(path); err != nil {
			return nil, err
		}
	}
	if len(r.mesh.positions) == 0 {
		return nil, fmt.Errorf("no object of a mesh in %s", strings.Join(paths, ", "))
	}
	r.mesh.Snapshot.SystemNamespace = options.SystemNamespace
	r.assume()
	r.mesh.compile()
	return r.mesh, nil
}

type reader struct {
	options FileOptions
	mesh    *Mesh
}

func (r *reader) path(path string) error {
	if path == "-" {
		data, err := io.ReadAll(r.options.Stdin)
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		return r.file("stdin", data)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return r.read(path)
	}
	found := false
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			return err
		}
		found = true
		return r.read(name)
	})
	if err == nil && !found {
		err = fmt.Errorf("%s holds no file that ends with .yaml, .yml or .json", path)
	}
	return err
}

func (r *reader) read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return r.file(path, data)
}

// file reads all documents of a file.
func (r *reader) file(name string, data []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return Located(name, err)
		}
		if len(document.Content) == 0 || document.Content[0].ShortTag() == "!!null" {
			continue
		}
		if err := r.object(&source{file: name, root: document.Content[0]}); err != nil {
			return err
		}
	}
}

// object reads one object, or those of a List.
func (r *reader) object(s *source) error {
	if err := s.read(); err != nil {
		return err
	}
	if strings.HasSuffix(s.head.Kind, "List") {
		if items := fieldOf(s.root, "items"); items != nil && items.Kind == yaml.SequenceNode {
			for _, item := range items.Content {
				if err := r.object(&source{file: s.file, root: item}); err != nil {
					return err
				}
			}
			return nil
		}
	}
	k, known := kinds[s.head.Kind]
	if !known || !strings.HasPrefix(s.head.APIVersion, k.group) {
		r.mesh.Ignored = append(r.mesh.Ignored, Object{s.head.Kind, s.head.Namespace, s.head.Name})
		return nil
	}
	if !slices.Contains(k.versions, s.head.APIVersion) {
		return s.errorAt("apiVersion", "%s of apiVersion %q is not known here: use %s", s.head.Kind, s.head.APIVersion, k.versions[0])
	}
	if s.head.Name == "" {
		return s.errorAt("metadata", "%s has no metadata.name", s.head.Kind)
	}
	object := Object{Kind: s.head.Kind, Namespace: s.head.Namespace, Name: s.head.Name}
	switch {
	case !k.namespaced:
		object.Namespace = ""
	case object.Namespace == "":
		object.Namespace = r.options.Namespace
	}
	if err := k.read(r.mesh, s, object.Namespace); err != nil {
		return err
	}
	r.mesh.positions[object] = s.position(s.root)
	return nil
}

// kind is what can be read of files.
type kind struct {
	// group begins the apiVersions; versions are those that have the same shape.
	group      string
	versions   []string
	namespaced bool
	read       func(m *Mesh, s *source, namespace string) error
}

const gatewayGroup = gwv1.GroupName + "/"

var kinds = map[string]kind{
	"Mesh":              {meshv1alpha1.GroupVersion.Group + "/", []string{meshv1alpha1.GroupVersion.String()}, false, readMesh},
	"MeshPolicy":        {meshv1alpha1.GroupVersion.Group + "/", []string{meshv1alpha1.GroupVersion.String()}, true, into(func(m *Mesh) *[]*meshv1alpha1.MeshPolicy { return &m.Snapshot.MeshPolicies })},
	"MeshAuthorization": {meshv1alpha1.GroupVersion.Group + "/", []string{meshv1alpha1.GroupVersion.String()}, true, into(func(m *Mesh) *[]*meshv1alpha1.MeshAuthorization { return &m.Snapshot.MeshAuthorizations })},
	"HTTPRoute":         {gatewayGroup, []string{gatewayGroup + "v1", gatewayGroup + "v1beta1"}, true, into(func(m *Mesh) *[]*gwv1.HTTPRoute { return &m.Snapshot.HTTPRoutes })},
	"GRPCRoute":         {gatewayGroup, []string{gatewayGroup + "v1"}, true, into(func(m *Mesh) *[]*gwv1.GRPCRoute { return &m.Snapshot.GRPCRoutes })},
	"Namespace":         {"v1", []string{"v1"}, false, into(func(m *Mesh) *[]*corev1.Namespace { return &m.Snapshot.Namespaces })},
	"Service":           {"v1", []string{"v1"}, true, into(func(m *Mesh) *[]*corev1.Service { return &m.Snapshot.Services })},
	"EndpointSlice":     {"discovery.k8s.io/", []string{"discovery.k8s.io/v1"}, true, into(func(m *Mesh) *[]*discoveryv1.EndpointSlice { return &m.Snapshot.EndpointSlices })},
	"Pod":               {"v1", []string{"v1"}, true, into(func(m *Mesh) *[]*corev1.Pod { return &m.Pods })},
	"Node":              {"v1", []string{"v1"}, false, into(func(m *Mesh) *[]*corev1.Node { return &m.Nodes })},
	"Deployment":        {"apps/", []string{"apps/v1"}, true, readWorkload},
	"StatefulSet":       {"apps/", []string{"apps/v1"}, true, readWorkload},
	"DaemonSet":         {"apps/", []string{"apps/v1"}, true, readWorkload},
	"Job":               {"batch/", []string{"batch/v1"}, true, readWorkload},
	"NetworkPolicy":     {"networking.k8s.io/", []string{"networking.k8s.io/v1"}, true, into(func(m *Mesh) *[]*networkingv1.NetworkPolicy { return &m.NetworkPolicies })},
}

func readMesh(m *Mesh, s *source, _ string) error {
	mesh := &meshv1alpha1.Mesh{}
	m.Snapshot.Mesh = mesh
	return s.decode(mesh)
}

// readWorkload reads the pod that a workload would run. It has the workload's name.
func readWorkload(m *Mesh, s *source, namespace string) error {
	var workload struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := s.decodeLoosely(&workload); err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: workload.Spec.Template.ObjectMeta, Spec: workload.Spec.Template.Spec}
	pod.Namespace, pod.Name = namespace, s.head.Name
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	m.Pods = append(m.Pods, pod)
	return nil
}

// into decodes an object into a list.
func into[T any, P interface {
	*T
	metav1.Object
}](list func(*Mesh) *[]P) func(*Mesh, *source, string) error {
	return func(m *Mesh, s *source, namespace string) error {
		object := P(new(T))
		if err := s.decode(object); err != nil {
			return err
		}
		object.SetNamespace(namespace)
		all := list(m)
		*all = append(slices.DeleteFunc(*all, func(o P) bool {
			return o.GetNamespace() == namespace && o.GetName() == object.GetName()
		}), object)
		return nil
	}
}

// assume takes the namespaces that no file declares as enrolled.
func (r *reader) assume() {
	m := r.mesh
	declared := map[string]bool{"": true, r.options.SystemNamespace: true}
	for _, ns := range m.Snapshot.Namespaces {
		declared[ns.Name] = true
	}
	for object := range m.positions {
		if !declared[object.Namespace] {
			declared[object.Namespace] = true
			m.Assumed = append(m.Assumed, object.Namespace)
		}
	}
	slices.Sort(m.Assumed)
	for _, name := range m.Assumed {
		m.Snapshot.Namespaces = append(m.Snapshot.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"},
		}})
	}
}
