package webhooks

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// InjectConfig is what the proxies beside pods are made from.
type InjectConfig struct {
	// Image of the proxy.
	Image string
	// HTTPEngine is the proxy's --http-engine; empty for its default.
	HTTPEngine string
	// OperatorAddress is the host and port of the configuration stream, TrustBundle the ConfigMap in each enrolled namespace
	// with the roots that it is verified by, under TrustBundleKey.
	OperatorAddress             string
	TrustBundle, TrustBundleKey string
}

const (
	volumeOperator = "weft-operator"
	volumeState    = "weft-state"
	pathOperator   = "/var/run/secrets/weft.dev"
	pathState      = "/var/lib/weft"

	// nonroot is the user and group of distroless images.
	nonroot = 65532
	// sidecarLeave and sidecarDrain bound the end of a proxy whose pod's own containers have ended before it: nobody is
	// left to be served, but what has been answered may be on its way.
	sidecarLeave, sidecarDrain = "100ms", "5s"
	// startSeconds is how long the proxy may take to have its configuration and identity, before it is started anew.
	startSeconds = 120

	tokenLifetime = 3600
)

// Inject returns the pod with a proxy of its own: a native sidecar (KEP-753), so that the pod's own containers start once
// the proxy is ready and end before it, and a Job's pod ends with its own. It needs nothing that the restricted Pod
// Security Standard refuses; what redirects connections to it is the node agent, which knows the pod by SidecarLabel.
//
// A pod that has it already is returned as it is, and so is one that cannot have one: on the network of its node, of
// Weft's own, or kept out of the mesh. The error says why a pod is refused. The pod that is given is not changed.
func Inject(pod *corev1.Pod, c InjectConfig) (*corev1.Pod, error) {
	if !compile.Placeable(pod) || compile.HasSidecar(pod) {
		return pod, nil
	}
	if err := injectable(pod); err != nil {
		return nil, err
	}
	pod = pod.DeepCopy()
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[meshv1alpha1.SidecarLabel] = "true"
	// Before all others, so that what they send is encrypted as well.
	pod.Spec.InitContainers = slices.Insert(pod.Spec.InitContainers, 0, sidecar(c))
	pod.Spec.Volumes = append(pod.Spec.Volumes, sidecarVolumes(c)...)
	return pod, nil
}

// injectable says what of a pod is in the way of a proxy.
func injectable(pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName == meshv1alpha1.ProxyName {
		return fmt.Errorf("the pod runs as ServiceAccount %s, which is that of the proxies of the namespace", meshv1alpha1.ProxyName)
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if container.Name == compile.SidecarContainer {
			return fmt.Errorf("the pod has a container %q already, which is the name of its proxy", container.Name)
		}
		for _, port := range container.Ports {
			switch port.ContainerPort {
			case wire.PortCaptured, wire.PortHop, wire.PortAdmin, wire.PortMetrics, wire.PortHealth:
				return fmt.Errorf("container %q has port %d, which is the proxy's", container.Name, port.ContainerPort)
			}
		}
	}
	for i := range pod.Spec.Volumes {
		if name := pod.Spec.Volumes[i].Name; name == volumeOperator || name == volumeState {
			return fmt.Errorf("the pod has a volume %q already, which is the name of one of its proxy's", name)
		}
	}
	return nil
}

func sidecar(c InjectConfig) corev1.Container {
	container := corev1.Container{
		Name:          compile.SidecarContainer,
		Image:         c.Image,
		RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
		Args: []string{
			"--operator-address=" + c.OperatorAddress,
			"--token-file=" + pathOperator + "/token",
			"--ca-file=" + pathOperator + "/" + c.TrustBundleKey,
			"--state-dir=" + pathState,
			"--namespace=$(POD_NAMESPACE)",
			"--service-account=$(SERVICE_ACCOUNT)",
			"--pod=$(POD_NAME)",
			"--node=$(NODE_NAME)",
			"--leave-grace=" + sidecarLeave,
			"--drain-grace=" + sidecarDrain,
		},
		Env: []corev1.EnvVar{
			fieldEnv("POD_NAMESPACE", "metadata.namespace"),
			fieldEnv("POD_NAME", "metadata.name"),
			fieldEnv("NODE_NAME", "spec.nodeName"),
			fieldEnv("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		},
		Ports: []corev1.ContainerPort{
			{Name: "weft-hop", ContainerPort: wire.PortHop, Protocol: corev1.ProtocolTCP},
			{Name: "weft-metrics", ContainerPort: wire.PortMetrics, Protocol: corev1.ProtocolTCP},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		StartupProbe:   ready(startSeconds),
		ReadinessProbe: ready(3),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(true),
			RunAsUser:                new(int64(nonroot)),
			RunAsGroup:               new(int64(nonroot)),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeOperator, MountPath: pathOperator, ReadOnly: true},
			{Name: volumeState, MountPath: pathState},
		},
	}
	if c.HTTPEngine != "" {
		container.Args = append(container.Args, "--http-engine="+c.HTTPEngine)
	}
	// Nine tenths of the limit, so that the collector works harder before the kernel kills.
	container.Env = append(container.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: strconv.Itoa(256*9/10) + "MiB"})
	return container
}

// sidecarVolumes are the token for the operator with the roots that it is verified by, and memory for the last good
// configuration, which holds a private key.
func sidecarVolumes(c InjectConfig) []corev1.Volume {
	return []corev1.Volume{
		{Name: volumeOperator, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: wire.TokenAudience, ExpirationSeconds: new(int64(tokenLifetime)), Path: "token",
			}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: c.TrustBundle},
				Items:                []corev1.KeyToPath{{Key: c.TrustBundleKey, Path: c.TrustBundleKey}},
			}},
		}}}},
		{Name: volumeState, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("16Mi")),
		}}},
	}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func ready(failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(wire.PortHealth)}},
		PeriodSeconds: 1, TimeoutSeconds: 2, FailureThreshold: failures,
	}
}
