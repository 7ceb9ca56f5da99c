{{/* Labels of everything; the argument is (list CONTEXT COMPONENT). */}}
{{- define "gradmem.labels" -}}
{{- $context := index . 0 -}}
{{ include "gradmem.selector" . }}
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ $context.Chart.Name }}-{{ $context.Chart.Version }}
{{- end }}

{{/* Labels that select the pods of a component. */}}
{{- define "gradmem.selector" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: gradmem
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "gradmem.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* A pod without privileges. */}}
{{- define "gradmem.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "gradmem.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A probe of a route, for a host that the service has to allow. */}}
{{- define "gradmem.probe" -}}
httpGet:
  path: {{ . }}
  port: http
  httpHeaders:
    - name: Host
      value: localhost
{{- end }}
