package infra

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

const (
	// nonroot is the user and group of distroless images.
	nonroot = 65532

	// terminationGrace bounds a proxy's end, drainGrace the part of it in which requests, TCP and
	// WebSocket connections may finish. The rest is for the agents to leave before (the proxy's
	// --leave-grace) and for closing after.
	terminationGrace = 60
	drainGrace       = "45s"

	tokenLifetime = 3600

	volumeOperator = "operator"
	volumeState    = "state"
	pathOperator   = "/var/run/secrets/weft.dev"
	pathState      = "/var/lib/weft"
)

func deployment(namespace string, p Params) *appsv1ac.DeploymentApplyConfiguration {
	annotations := map[string]string{templateAnnotation: Template(p)}
	if p.Replaces != "" {
		annotations[replacesAnnotation] = p.Replaces
	}
	return appsv1ac.Deployment(meshv1alpha1.ProxyName, namespace).
		WithLabels(labels()).
		WithAnnotations(annotations).
		WithSpec(appsv1ac.DeploymentSpec().
			WithReplicas(p.Replicas).
			WithSelector(selector()).
			// A new proxy is ready before an old one begins to drain.
			WithStrategy(appsv1ac.DeploymentStrategy().
				WithType(appsv1.RollingUpdateDeploymentStrategyType).
				WithRollingUpdate(appsv1ac.RollingUpdateDeployment().
					WithMaxSurge(intstr.FromInt32(1)).
					WithMaxUnavailable(intstr.FromInt32(0)))).
			WithTemplate(template(p)))
}

func template(p Params) *corev1ac.PodTemplateSpecApplyConfiguration {
	return corev1ac.PodTemplateSpec().
		WithLabels(labels()).
		WithAnnotations(map[string]string{
			"kubectl.kubernetes.io/default-container": component,
			"prometheus.io/scrape":                    "true",
			"prometheus.io/path":                      "/metrics",
			"prometheus.io/port":                      strconv.Itoa(wire.PortMetrics),
		}).
		WithSpec(podSpec(p))
}

func podSpec(p Params) *corev1ac.PodSpecApplyConfiguration {
	return corev1ac.PodSpec().
		WithServiceAccountName(meshv1alpha1.ProxyName).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithPriorityClassName(PriorityClass).
		WithTerminationGracePeriodSeconds(terminationGrace).
		WithNodeSelector(map[string]string{corev1.LabelOSStable: "linux"}).
		WithSecurityContext(corev1ac.PodSecurityContext().
			WithRunAsNonRoot(true).
			WithRunAsUser(nonroot).
			WithRunAsGroup(nonroot).
			WithFSGroup(nonroot).
			WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithTopologySpreadConstraints(spread(corev1.LabelHostname), spread(corev1.LabelTopologyZone)).
		WithVolumes(
			// The token is for the operator alone; the API server refuses its audience.
			corev1ac.Volume().WithName(volumeOperator).WithProjected(corev1ac.ProjectedVolumeSource().WithSources(
				corev1ac.VolumeProjection().WithServiceAccountToken(corev1ac.ServiceAccountTokenProjection().
					WithAudience(wire.TokenAudience).
					WithExpirationSeconds(tokenLifetime).
					WithPath("token")),
				corev1ac.VolumeProjection().WithConfigMap(corev1ac.ConfigMapProjection().
					WithName(TrustBundleName).
					WithItems(corev1ac.KeyToPath().WithKey(TrustBundleKey).WithPath(TrustBundleKey))))),
			// The saved configuration holds private keys: it lives in memory, and as long as the pod.
			corev1ac.Volume().WithName(volumeState).WithEmptyDir(corev1ac.EmptyDirVolumeSource().
				WithMedium(corev1.StorageMediumMemory).
				WithSizeLimit(resource.MustParse("64Mi")))).
		WithContainers(container(p))
}

// spread prefers equal numbers of proxies per domain. It never keeps a proxy from running.
func spread(topologyKey string) *corev1ac.TopologySpreadConstraintApplyConfiguration {
	return corev1ac.TopologySpreadConstraint().
		WithMaxSkew(1).
		WithTopologyKey(topologyKey).
		WithWhenUnsatisfiable(corev1.ScheduleAnyway).
		WithLabelSelector(selector()).
		// During a rolling update the old pods do not count.
		WithMatchLabelKeys(appsv1.DefaultDeploymentUniqueLabelKey)
}

func container(p Params) *corev1ac.ContainerApplyConfiguration {
	required, memory := resources(p.Resources)
	c := corev1ac.Container().
		WithName(component).
		WithImage(p.Image).
		WithArgs(
			"--operator-address="+p.OperatorAddress,
			"--token-file="+pathOperator+"/token",
			"--ca-file="+pathOperator+"/"+TrustBundleKey,
			"--state-dir="+pathState,
			"--namespace=$(POD_NAMESPACE)",
			"--pod=$(POD_NAME)",
			"--node=$(NODE_NAME)",
			"--zone=$(ZONE)",
			"--drain-grace="+drainGrace,
		).
		WithEnv(
			fieldEnv("POD_NAMESPACE", "metadata.namespace"),
			fieldEnv("POD_NAME", "metadata.name"),
			fieldEnv("NODE_NAME", "spec.nodeName"),
			// Kubernetes copies the node's zone to the pod from 1.35 on (KEP-4742); empty before.
			fieldEnv("ZONE", fmt.Sprintf("metadata.labels['%s']", corev1.LabelTopologyZone)),
		).
		WithPorts(
			port("captured", wire.PortCaptured),
			port("hop", wire.PortHop),
			port("metrics", wire.PortMetrics),
			port("health", wire.PortHealth),
		).
		WithResources(required).
		// There is no start-up probe: a proxy listens within milliseconds and is ready once it has its
		// configuration, which the readiness probe sees within a second.
		WithReadinessProbe(probe("/readyz").WithPeriodSeconds(1).WithFailureThreshold(3)).
		WithLivenessProbe(probe("/healthz").WithPeriodSeconds(10).WithFailureThreshold(3)).
		WithSecurityContext(corev1ac.SecurityContext().
			WithAllowPrivilegeEscalation(false).
			WithReadOnlyRootFilesystem(true).
			WithCapabilities(corev1ac.Capabilities().WithDrop("ALL"))).
		WithVolumeMounts(
			corev1ac.VolumeMount().WithName(volumeOperator).WithMountPath(pathOperator).WithReadOnly(true),
			corev1ac.VolumeMount().WithName(volumeState).WithMountPath(pathState))
	if p.HTTPEngine != "" {
		c.WithArgs("--http-engine=" + p.HTTPEngine)
	}
	if memory != "" {
		c.WithEnv(corev1ac.EnvVar().WithName("GOMEMLIMIT").WithValue(memory))
	}
	return c
}

func fieldEnv(name, path string) *corev1ac.EnvVarApplyConfiguration {
	return corev1ac.EnvVar().WithName(name).WithValueFrom(corev1ac.EnvVarSource().
		WithFieldRef(corev1ac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath(path)))
}

func port(name string, number int32) *corev1ac.ContainerPortApplyConfiguration {
	return corev1ac.ContainerPort().WithName(name).WithContainerPort(number).WithProtocol(corev1.ProtocolTCP)
}

func probe(path string) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().
		WithHTTPGet(corev1ac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(wire.PortHealth))).
		WithTimeoutSeconds(2)
}
