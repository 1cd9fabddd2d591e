package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// The exit codes, which docs/cli.md lists.
const (
	exitOK = 0
	// exitNo: the command worked, and its answer is negative.
	exitNo = 1
	// exitUsage: flags, arguments or files are wrong.
	exitUsage = 2
	// exitUnreachable: there is no kubeconfig, or the cluster does not answer.
	exitUnreachable = 3
	// exitForbidden: the user has no right to it.
	exitForbidden = 4
	// exitAbsent: there is no Weft in the cluster, or not what was named.
	exitAbsent = 5
	// exitFailed: anything else.
	exitFailed      = 6
	exitInterrupted = 130
)

// exitCodes explains them for the reference.
var exitCodes = []struct {
	code  int
	means string
}{
	{exitOK, "done, and the answer is good"},
	{exitNo, "done, and the answer is bad: a check or test has failed, there are findings, a call is denied"},
	{exitUsage, "wrong flags or arguments, or files that cannot be read"},
	{exitUnreachable, "no kubeconfig, or the cluster does not answer"},
	{exitForbidden, "you have no right to what the command needs"},
	{exitAbsent, "Weft, or what was named, is not there"},
	{exitFailed, "something else went wrong"},
	{exitInterrupted, "interrupted"},
}

// failure is an error with what to do about it.
type failure struct {
	code int
	err  error
	// next is what to do; empty if the error says it.
	next string
}

// Error returns what went wrong.
func (f *failure) Error() string { return f.line() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// line is one line for people.
func (f *failure) line() string {
	if f.err == nil {
		return ""
	}
	text := strings.Join(strings.Fields(f.err.Error()), " ")
	if f.next != "" {
		text += "; " + f.next
	}
	return text
}

// errNo is the end of a command whose answer is negative and has been printed.
var errNo = &failure{code: exitNo}

func misused(cmd *cobra.Command, what string) error {
	return &failure{exitUsage, errors.New(what), "see " + display(cmd) + " --help"}
}

// display is the command as people type it.
func display(cmd *cobra.Command) string {
	return strings.Replace(cmd.CommandPath(), "kubectl-weft", "kubectl weft", 1)
}

// absent says that what was named is not there.
func absent(format string, args ...any) error {
	return &failure{exitAbsent, fmt.Errorf(format, args...), ""}
}

// noProxy says that there is no proxy to ask.
func noProxy() error {
	return &failure{exitAbsent, errors.New("no proxy runs"), "run kubectl weft check"}
}

// wrong is a wrong argument.
func wrong(format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...), ""}
}

// explain finds out what an error is about.
func explain(err error) *failure {
	var f *failure
	var file *mesh.FileError
	var path *fs.PathError
	var address *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &file), errors.As(err, &path):
		return &failure{exitUsage, err, ""}
	case errors.Is(err, mesh.ErrNotInstalled):
		return &failure{exitAbsent, mesh.ErrNotInstalled, "run kubectl weft check --pre, and install it"}
	case apierrors.IsUnauthorized(err):
		return &failure{exitForbidden, errors.New("the cluster does not know who you are"), "log in, or choose another --context"}
	case apierrors.IsForbidden(err):
		return &failure{exitForbidden, err, "ask for the ClusterRole weft-viewer"}
	case clientcmd.IsEmptyConfig(err):
		return &failure{exitUnreachable, errors.New("there is no kubeconfig"), "name one with --kubeconfig, or read files with -f"}
	case clientcmd.IsContextNotFound(err), clientcmd.IsConfigurationInvalid(err):
		return &failure{exitUnreachable, err, "see kubectl config get-contexts"}
	case errors.Is(err, errNoAPIServer):
		return &failure{exitUnreachable, err, "see kubectl config get-contexts, or name another with --context"}
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return &failure{exitUnreachable, errors.New("the cluster does not answer in time"), "raise --timeout, or try kubectl get namespaces"}
	case apierrors.IsServiceUnavailable(err), apierrors.IsTooManyRequests(err):
		return &failure{exitUnreachable, err, "try again in a while"}
	case errors.As(err, &address) && address.Op == "listen":
		return &failure{exitFailed, err, "choose another --port"}
	case errors.As(err, &address), errors.As(err, &request):
		return &failure{exitUnreachable, fmt.Errorf("the cluster cannot be reached: %w", err), "try kubectl get namespaces"}
	case apierrors.IsNotFound(err):
		return &failure{exitAbsent, err, ""}
	default:
		return &failure{exitFailed, err, ""}
	}
}
