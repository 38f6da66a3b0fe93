{{- define "mew-kernel.kernel" -}}
{{ .Values.kernel | default .Release.Name }}
{{- end }}

{{- define "mew-kernel.selector" -}}
app.kubernetes.io/name: mew-kernel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mew-kernel.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "mew-kernel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mew-federation
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mew-kernel.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "mew-kernel.trustDomain" -}}
{{- required "trustDomain is required: that of the operator, such as eu.example.com" .Values.trustDomain }}
{{- end }}
