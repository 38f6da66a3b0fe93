{{- /*
Namespaced objects are called mew-operator whatever the release is called: Lease, CA and roots have fixed names too, so a
namespace holds one operator, and agents find it without being told. What belongs to the cluster carries the namespace in its
name: operators of other namespaces may watch other namespaces.
*/}}
{{- define "mew-operator.clusterName" -}}
mew-operator.{{ .Release.Namespace }}
{{- end }}

{{- define "mew-operator.host" -}}
mew-operator.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "mew-operator.selector" -}}
app.kubernetes.io/name: mew-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mew-operator.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "mew-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mew-federation
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mew-operator.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "mew-operator.trustDomain" -}}
{{- required "trustDomain is required: the namespace of the identities that this operator signs, such as eu.example.com" .Values.trustDomain }}
{{- end }}

{{- /* Where objects are looked at: the given namespaces and the operator's own. */}}
{{- define "mew-operator.namespaces" -}}
{{- append .Values.watchNamespaces .Release.Namespace | uniq | sortAlpha | toJson }}
{{- end }}

{{- /* Pod security "restricted". The image names its user by number, so none is named here; OpenShift wants its own. */}}
{{- define "mew-operator.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mew-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
