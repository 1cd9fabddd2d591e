package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"weft.dev/weft/controllers/identity"
)

var key = types.NamespacedName{Namespace: "weft-system", Name: identity.CASecretName}

func openCA(t *testing.T, c client.WithWatch, now time.Time) (*identity.CA, error) {
	t.Helper()
	keeper, err := identity.OpenKeeper(t.Context(), c, key.Namespace, func() time.Time { return now })
	if err != nil {
		return nil, err
	}
	return keeper.CA(), nil
}

func TestOpenKeeper(t *testing.T) {
	get := func(t *testing.T, c client.Client) map[string][]byte {
		t.Helper()
		var secret corev1.Secret
		if err := c.Get(t.Context(), key, &secret); err != nil {
			t.Fatal(err)
		}
		return secret.Data
	}
	existing := func(data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: data}
	}

	t.Run("made once and read ever after", func(t *testing.T) {
		c := fake.NewClientBuilder().Build()
		first, err := openCA(t, c, start)
		if err != nil {
			t.Fatal(err)
		}
		second, err := openCA(t, c, start.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if first.Bundle() != second.Bundle() {
			t.Error("the second start made another authority")
		}
		if first.Bundle() != string(get(t, c)["ca.crt"]) {
			t.Error("the Secret does not hold the authority")
		}
	})
	t.Run("of two that start together the first to write wins", func(t *testing.T) {
		winner := caData(t, start)
		c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if err := c.Create(ctx, existing(winner)); err != nil {
					return err
				}
				return c.Create(ctx, obj, opts...)
			},
		})
		ca, err := openCA(t, c, start)
		if err != nil {
			t.Fatal(err)
		}
		if ca.Bundle() != string(winner["ca.crt"]) {
			t.Error("the loser keeps an authority of its own")
		}
	})
	t.Run("a malformed one is reported and left alone", func(t *testing.T) {
		for name, data := range map[string]map[string][]byte{
			"empty":      nil,
			"no key":     {"ca.crt": caData(t, start)["ca.crt"], "tls.crt": caData(t, start)["tls.crt"]},
			"mixed pair": {"ca.crt": caData(t, start)["ca.crt"], "tls.crt": caData(t, start)["tls.crt"], "tls.key": caData(t, start)["tls.key"]},
		} {
			c := fake.NewClientBuilder().WithObjects(existing(data)).Build()
			_, err := openCA(t, c, start)
			var malformed *identity.MalformedCAError
			if !errors.As(err, &malformed) || !strings.Contains(err.Error(), "weft-system/weft-ca") {
				t.Errorf("%s: error = %v, want a MalformedCAError that names the Secret", name, err)
			}
			if strings.Contains(fmt.Sprint(err), "PRIVATE KEY") {
				t.Errorf("%s: the error holds key material: %v", name, err)
			}
			if diff := cmp.Diff(data, get(t, c)); diff != "" {
				t.Errorf("%s: the Secret was changed (-want +got):\n%s", name, diff)
			}
		}
	})
	t.Run("without rights there is no authority", func(t *testing.T) {
		c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, key.Name, nil)
			},
		})
		if _, err := openCA(t, c, start); !apierrors.IsForbidden(err) {
			t.Errorf("error = %v, want the refusal", err)
		}
	})
}
