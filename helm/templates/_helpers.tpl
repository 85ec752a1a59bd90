{{/* Names. */}}

{{- define "sluiceway.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* 52 characters, so that `-operations` still fits into a Service's 63. */}}
{{- define "sluiceway.fullname" -}}
{{- $name := include "sluiceway.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "sluiceway.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "sluiceway.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{/* Labels: `root` and `component`. Selectors are of those that never change in a release's life. */}}

{{- define "sluiceway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sluiceway.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of pods: without the chart's version, which would restart them for a chart that renders the same. */}}
{{- define "sluiceway.podLabels" -}}
{{ include "sluiceway.selectorLabels" . }}
app.kubernetes.io/part-of: sluiceway
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "sluiceway.labels" -}}
{{ include "sluiceway.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sluiceway.image" -}}
{{- .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "sluiceway.gatewayImage" -}}
{{- include "sluiceway.image" (dict "repository" .Values.image.repository "tag" (.Values.image.tag | default .Chart.AppVersion) "digest" .Values.image.digest) -}}
{{- end }}

{{/* Numbers. */}}

{{- define "sluiceway.autoscaled" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}true{{ end -}}
{{- end }}

{{/*
How many pods the manifest says. Where an autoscaler says how many, it is as many as there are: a number that was in the
manifest before and is not now would become Kubernetes' own default, one. Nothing where there is no Deployment yet, or no
cluster to ask (`helm template`): whoever applies such a render again and again would undo the autoscaler's number by ours.
*/}}
{{- define "sluiceway.replicas" -}}
{{- if include "sluiceway.autoscaled" . -}}
{{- lookup "apps/v1" "Deployment" .Release.Namespace (include "sluiceway.fullname" .) | dig "spec" "replicas" "" -}}
{{- else -}}
{{- .Values.replicas | int -}}
{{- end -}}
{{- end }}

{{/* The fewest pods that there ever are. */}}
{{- define "sluiceway.leastReplicas" -}}
{{- if .Values.autoscaling.hpa.enabled }}{{ .Values.autoscaling.hpa.minReplicas | int }}
{{- else if .Values.autoscaling.keda.enabled }}{{ .Values.autoscaling.keda.minReplicas | int }}
{{- else }}{{ .Values.replicas | int }}
{{- end -}}
{{- end }}

{{/* The most. */}}
{{- define "sluiceway.mostReplicas" -}}
{{- if .Values.autoscaling.hpa.enabled }}{{ .Values.autoscaling.hpa.maxReplicas | int }}
{{- else if .Values.autoscaling.keda.enabled }}{{ .Values.autoscaling.keda.maxReplicas | int }}
{{- else }}{{ .Values.replicas | int }}
{{- end -}}
{{- end }}

{{/*
Seconds from SIGTERM to SIGKILL: the pause, the grace, and half a minute. In it a gateway settles and sends its last spans; a
supervisor kills a worker that has not ended after 15 s of it, and then needs some of the rest to tell so and to end itself.
*/}}
{{- define "sluiceway.terminationGracePeriodSeconds" -}}
{{- add (ceil .Values.shutdown.pause) (ceil .Values.shutdown.grace) 30 -}}
{{- end }}

{{/* The selector of this release's series, as the ServiceMonitor labels them. */}}
{{- define "sluiceway.series" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "sluiceway.fullname" . }}-operations"
{{- end }}

{{/* The gateway's file: `config` and what is the chart's. */}}

{{/* What a variable looks like there. */}}
{{- define "sluiceway.variable" -}}
\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}
{{- end }}

{{- define "sluiceway.storeUrl" -}}
{{- if .Values.valkey.enabled -}}
redis://{{ include "sluiceway.fullname" . }}-valkey:6379/0
{{- else -}}
{{- .Values.store.url | default "${SLUICEWAY_STORE_URL}" -}}
{{- end -}}
{{- end }}

{{- define "sluiceway.file" -}}
{{- $config := deepCopy .Values.config -}}
{{- $ours := dict
  "listen" (dict "host" .Values.bindAddress "port" 8600)
  "operations" (dict "host" .Values.bindAddress "port" 8601)
  "admin" (dict "on" "operations")
  "admin_key" "${SLUICEWAY_ADMIN_KEY}"
  "store" (dict "url" (include "sluiceway.storeUrl" .) "data_dir" "/var/lib/sluiceway")
  "shutdown" (dict "pause" .Values.shutdown.pause "grace" .Values.shutdown.grace)
-}}
{{- include "sluiceway.plain" $config -}}
{{- toYaml (mergeOverwrite $config $ours) -}}
{{- end }}

{{/* Write small numbers of a mapping in digits, as text: YAML would say 5e-05. The gateway reads both as the number. */}}
{{- define "sluiceway.plain" -}}
{{- range $key, $value := . -}}
  {{- if kindIs "map" $value -}}
    {{- include "sluiceway.plain" $value -}}
  {{- else if kindIs "slice" $value -}}
    {{- range $value }}{{ if kindIs "map" . }}{{ include "sluiceway.plain" . }}{{ end }}{{ end -}}
  {{- else if and (kindIs "float64" $value) (contains "e-" (toString $value)) -}}
    {{- with printf "%.12f" $value | regexFind "^-?[0-9]+\\.[0-9]*[1-9]" }}{{ $_ := set $ $key . }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* What the gateway cannot take while it runs, or, where so wished, all of its file: a change of it restarts the pods. */}}
{{- define "sluiceway.checksum" -}}
{{- $file := include "sluiceway.file" . | fromYaml -}}
{{- if not .Values.rolloutOnConfigChange -}}
{{- $listen := set (omit $file.listen "tls" "cors") "tls" (hasKey $file.listen "tls") -}}
{{- $store := omit $file.store "when_down" "identity_grace" -}}
{{- $file = merge (dict "listen" $listen "store" $store) (pick $file "operations" "admin" "admin_key" "telemetry") -}}
{{- end -}}
{{- toJson $file | sha256sum -}}
{{- end }}
