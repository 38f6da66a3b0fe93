{{- define "mew-crds.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: mew-crds
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mew-federation
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* On each CRD: compared by the policy that refuses downgrades. */}}
{{- define "mew-crds.version" -}}
federation.mew.dev/crd-version
{{- end }}
