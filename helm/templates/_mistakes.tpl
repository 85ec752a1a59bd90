{{/* Each of these writes a line for each mistake: `- value: what is wrong; what would be right`. */}}

{{- define "sluiceway.mistakes" -}}
{{- include "sluiceway.mistakes.owned" . -}}
{{- include "sluiceway.mistakes.secrets" . -}}
{{- include "sluiceway.mistakes.variables" . -}}
{{- include "sluiceway.mistakes.files" . -}}
{{- include "sluiceway.mistakes.store" . -}}
{{- include "sluiceway.mistakes.scale" . -}}
{{- include "sluiceway.mistakes.memory" . -}}
{{- include "sluiceway.mistakes.watching" . -}}
{{- include "sluiceway.mistakes.shutdown" . -}}
{{- include "sluiceway.mistakes.network" . -}}
{{- end }}

{{/* Settings of the file that the chart writes itself, and a file that serves nobody. */}}
{{- define "sluiceway.mistakes.owned" -}}
{{- $config := .Values.config -}}
{{- $owned := list
  (list "listen" "host" "remove it and set bindAddress")
  (list "listen" "port" "remove it and set service.port, for the pods' own is always 8600")
  (list "store" "url" "remove it and set store.existingSecret or store.url")
  (list "store" "data_dir" "remove it, for it is always /var/lib/sluiceway")
-}}
{{- range $owned -}}
  {{- if hasKey (index $config (first .) | default dict) (index . 1) }}
- config.{{ first . }}.{{ index . 1 }}: the chart writes it; {{ last . }}
  {{- end -}}
{{- end -}}
{{- if hasKey $config "operations" }}
- config.operations: the chart writes it; remove it and set bindAddress, for the port is always 8601
{{- end -}}
{{- if hasKey $config "admin" }}
- config.admin: the chart writes it; remove it, for the admin API is always on the operations port
{{- end -}}
{{- if hasKey $config "admin_key" }}
- config.admin_key: the chart writes it; remove it and set adminKey.existingSecret
{{- end -}}
{{- if hasKey $config "shutdown" }}
- config.shutdown: the chart writes it; remove it and set shutdown.pause and shutdown.grace
{{- end -}}
{{- range $name, $remedy := dict "type" " and set service.type" "ports" " and set service.port" "selector" ", for it is always the gateways" -}}
  {{- if hasKey $.Values.service.spec $name }}
- service.spec.{{ $name }}: the chart writes it; remove it{{ $remedy }}
  {{- end -}}
{{- end -}}
{{- $labels := include "sluiceway.labels" (dict "root" . "component" "gateway") | fromYaml -}}
{{- range $where, $given := dict "podLabels" .Values.podLabels "serviceMonitor.labels" .Values.serviceMonitor.labels "prometheusRule.labels" .Values.prometheusRule.labels -}}
  {{- range $name, $_ := $given -}}
    {{- if hasKey $labels $name }}
- {{ $where }}: the chart writes {{ $name }}; remove it, or choose another name
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "checksum/config" }}
- podAnnotations: the chart writes checksum/config; remove it
{{- end -}}
{{- if not $config.backends }}
- config.backends: there is none, so nobody could be served; add one, such as `local: {kind: vllm, base_url: "http://vllm.models.svc:8000/v1"}`
{{- end -}}
{{- end }}

{{/* Secrets that are missing, and those that stand in plain text. */}}
{{- define "sluiceway.mistakes.secrets" -}}
{{- if not .Values.adminKey.existingSecret.name }}
- adminKey.existingSecret.name: is missing; make a Secret with an admin key of 16 characters or more and name it here
{{- end -}}
{{- $url := regexReplaceAll "^[^:]*://" .Values.store.url "" -}}
{{- if regexMatch ":[^@]+@|[?&]password=." (regexReplaceAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*(:-)?\\}" $url "") }}
- store.url: holds a password in plain text; put the whole URL into a Secret and name it in store.existingSecret, or write the password as ${VARIABLE} of secretEnv
{{- end -}}
{{- range $name, $_ := .Values.env -}}
  {{- if contains (printf ":${%s}@" $name) $url }}
- env.{{ $name }}: is the store's password in plain text; name its Secret in secretEnv.{{ $name }}
  {{- end -}}
{{- end -}}
{{- range $name, $backend := .Values.config.backends -}}
  {{- $key := $backend.api_key -}}
  {{- if and (kindIs "string" $key) (include "sluiceway.withoutVariables" $key) }}
- config.backends.{{ $name }}.api_key: stands in plain text; write "${VARIABLE}" and name its Secret in secretEnv, or {file: PATH} in one of extraVolumeMounts
  {{- end -}}
  {{- range regexFindAll (include "sluiceway.variable" .) (kindIs "string" $key | ternary $key "") -1 -}}
    {{- $variable := regexFind "[A-Za-z_][A-Za-z0-9_]*" . -}}
    {{- if hasKey $.Values.env $variable }}
- env.{{ $variable }}: is the key of config.backends.{{ $name }} in plain text; name its Secret in secretEnv.{{ $variable }}
    {{- else if regexMatch ":-[^}]" . }}
- config.backends.{{ $name }}.api_key: has a default in plain text; write "${ {{- $variable -}} }" alone
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "sluiceway.withoutVariables" -}}
{{- regexReplaceAll (include "sluiceway.variable" .) . "" -}}
{{- end }}

{{/* Variables that nothing provides, that nothing uses, or that are the chart's. */}}
{{- define "sluiceway.mistakes.variables" -}}
{{- $text := printf "%s %s" (toJson .Values.config) .Values.store.url -}}
{{- $used := list -}}
{{- range regexFindAll (include "sluiceway.variable" .) $text -1 | uniq -}}
  {{- $name := regexFind "[A-Za-z_][A-Za-z0-9_]*" . -}}
  {{- $used = append $used $name -}}
  {{- if not (or (contains ":-" .) (hasKey $.Values.env $name) (hasKey $.Values.secretEnv $name) (eq $name "HOSTNAME")) -}}
    {{- if not (has $name (list "SLUICEWAY_ADMIN_KEY" "SLUICEWAY_STORE_URL")) }}
- config: uses ${ {{- $name -}} }, which no variable provides; name its Secret in secretEnv.{{ $name }}, or set env.{{ $name }}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.secretEnv -}}
  {{- if not (or (has $name $used) (regexMatch "^OTEL_|_PROXY$|_proxy$" $name)) }}
- secretEnv.{{ $name }}: nothing uses it; write "${ {{- $name -}} }" where config needs it, or remove it
  {{- end -}}
  {{- if hasKey $.Values.env $name }}
- secretEnv.{{ $name }}: is in env as well; keep one of them
  {{- end -}}
{{- end -}}
{{- $proxied := (.Values.config.telemetry | default dict).otlp_endpoint -}}
{{- range $_, $backend := .Values.config.backends -}}
  {{- if eq (toString $backend.transport) "httpx" }}{{ $proxied = true }}{{ end -}}
{{- end -}}
{{- range $where := list "env" "secretEnv" -}}
  {{- range $name, $_ := index $.Values $where -}}
    {{- if and (regexMatch "^(?i)(https?|all)_proxy$" $name) (not $proxied) (not (has $name $used)) }}
- {{ $where }}.{{ $name }}: nothing goes by it; write `transport: httpx` at the backends that are to, or remove it
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range list "env" "secretEnv" -}}
  {{- if hasKey (index $.Values .) "SLUICEWAY_ADMIN_KEY" }}
- {{ . }}.SLUICEWAY_ADMIN_KEY: the chart writes it; remove it and set adminKey.existingSecret
  {{- end -}}
  {{- if hasKey (index $.Values .) "SLUICEWAY_STORE_URL" }}
- {{ . }}.SLUICEWAY_STORE_URL: the chart writes it; remove it and set store.existingSecret
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Volumes that the API server would refuse, half of the release being there by then; files that the pod does not have. */}}
{{- define "sluiceway.mistakes.files" -}}
{{- $volumes := list "config" "data" "tmp" -}}
{{- range .Values.extraVolumes -}}
  {{- if has .name $volumes }}
- extraVolumes: there is a volume {{ .name }} already; choose another name
  {{- end -}}
  {{- $volumes = append $volumes .name -}}
{{- end -}}
{{- range $mount := .Values.extraVolumeMounts -}}
  {{- if not (has .name $volumes) }}
- extraVolumeMounts: {{ .mountPath }} mounts {{ .name }}, which extraVolumes does not name; add it there
  {{- end -}}
  {{- range list "/etc/sluiceway" "/var/lib/sluiceway" "/tmp" -}}
    {{- if hasPrefix (printf "%s/" (trimSuffix "/" $mount.mountPath)) (printf "%s/" .) }}
- extraVolumeMounts: {{ $mount.mountPath }} would hide {{ . }}, which the chart mounts; choose another path
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $files := dict -}}
{{- range $name, $backend := .Values.config.backends -}}
  {{- range list "ca" "list" -}}
    {{- $_ := set $files (printf "backends.%s.%s" $name .) (index $backend .) -}}
  {{- end -}}
  {{- if kindIs "map" $backend.api_key }}{{ $_ := set $files (printf "backends.%s.api_key.file" $name) $backend.api_key.file }}{{ end -}}
{{- end -}}
{{- range $name, $issuer := .Values.config.issuers -}}
  {{- $_ := set $files (printf "issuers.%s.ca" $name) $issuer.ca -}}
{{- end -}}
{{- range $key, $path := (.Values.config.listen | default dict).tls -}}
  {{- $_ := set $files (printf "listen.tls.%s" $key) $path -}}
{{- end -}}
{{- range $where, $path := $files -}}
  {{- if and (kindIs "string" $path) (not (contains "${" $path)) -}}
    {{- $found := hasPrefix "/etc/ssl/" $path -}}
    {{- range $.Values.extraVolumeMounts -}}
      {{- if or (eq $path .mountPath) (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $path) }}{{ $found = true }}{{ end -}}
    {{- end -}}
    {{- if not $found }}
- config.{{ $where }}: {{ $path }} is a file that no pod has; mount what holds it by extraVolumes and extraVolumeMounts, and write its whole path
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* No store, or two. */}}
{{- define "sluiceway.mistakes.store" -}}
{{- $stores := list -}}
{{- if .Values.store.existingSecret.name }}{{ $stores = append $stores "store.existingSecret" }}{{ end -}}
{{- if .Values.store.url }}{{ $stores = append $stores "store.url" }}{{ end -}}
{{- if .Values.valkey.enabled }}{{ $stores = append $stores "valkey.enabled" }}{{ end -}}
{{- if not $stores }}
- store: there is none; name the Secret of its URL in store.existingSecret, write store.url where it holds no password, or, for a trial, set valkey.enabled
{{- else if gt (len $stores) 1 }}
- store: {{ join " and " $stores }} name one each; keep one of them
{{- end -}}
{{- if and (eq .Values.store.url "embedded") (gt (int (include "sluiceway.mostReplicas" .)) 1) }}
- store.url: an embedded store is each pod's own, and there may be {{ include "sluiceway.mostReplicas" . }} pods; set replicas to 1, or use a store that all share
{{- end -}}
{{- end }}

{{/* Two autoscalers, half of one, and a budget that lets no node be drained. */}}
{{- define "sluiceway.mistakes.scale" -}}
{{- $hpa := .Values.autoscaling.hpa -}}
{{- $keda := .Values.autoscaling.keda -}}
{{- if and $hpa.enabled $keda.enabled }}
- autoscaling: hpa and keda would both set the number of pods; turn one of them off
{{- end -}}
{{- if and $keda.enabled (not $keda.serverAddress) }}
- autoscaling.keda.serverAddress: is missing; write Prometheus' address, such as http://prometheus-operated.monitoring.svc:9090
{{- end -}}
{{- range $name, $scaler := dict "hpa" $hpa "keda" $keda -}}
  {{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) }}
- autoscaling.{{ $name }}.minReplicas: {{ $scaler.minReplicas }} is more than maxReplicas, {{ $scaler.maxReplicas }}; make it at most that
  {{- end -}}
{{- end -}}
{{- $least := int (include "sluiceway.leastReplicas" .) -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- if and $budget.enabled (ge $least 2) -}}
  {{- $stay := toString $budget.minAvailable -}}
  {{- if $stay -}}
    {{- $kept := int (trimSuffix "%" $stay) -}}
    {{- if hasSuffix "%" $stay }}{{ $kept = divf (mulf $kept $least) 100 | ceil | int }}{{ end -}}
    {{- if ge $kept $least }}
- podDisruptionBudget.minAvailable: {{ $stay }} of {{ $least }} pods forbids every eviction, so no node could be drained; make it less
    {{- end -}}
  {{- else if has (toString $budget.maxUnavailable) (list "" "0" "0%") }}
- podDisruptionBudget.maxUnavailable: 0 forbids every eviction, so no node could be drained; make it 1 or more
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Bytes of a Kubernetes quantity (`1Gi`, `500M`, `1e9`, a number); nothing for what is none. */}}
{{- define "sluiceway.bytes" -}}
{{- $text := kindIs "string" . | ternary . (printf "%f" (float64 .)) -}}
{{- $digits := regexFind "^[0-9]*\\.?[0-9]+([eE][+-]?[0-9]+)?" $text -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $unit := trimPrefix $digits $text -}}
{{- if and $digits (hasKey $units $unit) }}{{ printf "%.3f" (mulf (float64 $digits) (index $units $unit)) }}{{ end -}}
{{- end }}

{{/* A limit that so many workers go beyond: Kubernetes would then end all of them at once. */}}
{{- define "sluiceway.mistakes.memory" -}}
{{- $workers := int .Values.workers -}}
{{- $limit := dig "limits" "memory" nil .Values.resources -}}
{{- $bytes := ternary "" (include "sluiceway.bytes" ($limit | default "none")) (kindIs "invalid" $limit) -}}
{{- if and $bytes (lt (float64 $bytes) (mulf $workers 350 1048576)) }}
- resources.limits.memory: {{ $limit }} is too little where workers is {{ $workers }}, for each takes up to 350Mi; write {{ mul $workers 350 }}Mi or more{{ if gt $workers 1 }}, or fewer workers{{ end }}
{{- end -}}
{{- end }}

{{/* Queries whose series nobody labels. */}}
{{- define "sluiceway.mistakes.watching" -}}
{{- $keda := .Values.autoscaling.keda -}}
{{- if not (or .Values.serviceMonitor.enabled .Values.serviceMonitor.madeElsewhere) -}}
  {{- if and $keda.enabled (not $keda.query) }}
- autoscaling.keda: asks for series that have the labels of a ServiceMonitor, and there is none; set serviceMonitor.enabled, or serviceMonitor.madeElsewhere, or write autoscaling.keda.query
  {{- end -}}
  {{- if .Values.prometheusRule.enabled }}
- prometheusRule: asks for series that have the labels of a ServiceMonitor, and there is none, so SluicewayGone would ring for ever and nothing else ever; set serviceMonitor.enabled, or serviceMonitor.madeElsewhere
  {{- end -}}
{{- end -}}
{{- end }}

{{/* A stop that cuts calls, or that nobody notices before it is over. */}}
{{- define "sluiceway.mistakes.shutdown" -}}
{{- $longest := 0.0 -}}
{{- $slowest := "" -}}
{{- range $name, $model := .Values.config.models | default (dict "every model" dict) -}}
  {{- $total := dig "deadlines" "total" 900 $model -}}
  {{- if gt (float64 $total) $longest -}}
    {{- $longest = float64 $total -}}
    {{- $slowest = $name -}}
  {{- end -}}
{{- end -}}
{{- if and (lt (float64 .Values.shutdown.grace) $longest) (not .Values.shutdown.cutLongerCalls) }}
- shutdown.grace: {{ .Values.shutdown.grace }} s are fewer than a call may take ({{ $longest }} s, deadlines.total of {{ $slowest }}), so every rollout would cut calls; write {{ $longest }} or more, or set shutdown.cutLongerCalls
{{- end -}}
{{- $ready := .Values.probes.readiness -}}
{{- $noticed := mul $ready.periodSeconds $ready.failureThreshold -}}
{{- if le (float64 .Values.shutdown.pause) (float64 $noticed) }}
- shutdown.pause: {{ .Values.shutdown.pause }} s are over before the readiness probe has noticed ({{ $noticed }} s, periodSeconds x failureThreshold), so calls would come that are turned away; make it more than {{ $noticed }}, or the probe faster
{{- end -}}
{{- end }}

{{/* Ways in that lead nowhere, and ways out that no policy can describe. */}}
{{- define "sluiceway.mistakes.network" -}}
{{- if regexMatch "^127\\.|^::1$" .Values.bindAddress }}
- bindAddress: {{ .Values.bindAddress }} is reached from within the pod alone, so no probe and no Service would get through; write 0.0.0.0, or "::" where the cluster speaks IPv6 alone
{{- end -}}
{{- $secure := "nginx.ingress.kubernetes.io/backend-protocol" -}}
{{- if and .Values.ingress.enabled (eq .Values.ingress.className "nginx") (hasKey (.Values.config.listen | default dict) "tls") (not (hasKey .Values.ingress.annotations $secure)) }}
- ingress.annotations: the gateway speaks TLS (config.listen.tls) and nginx would not; add {{ $secure }}: HTTPS
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
- ingress.hosts: is empty; name the host that callers use, such as llm.example.com
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
- httpRoute.parentRefs: is empty; name the Gateway that it belongs to, such as {name: public, namespace: gateways}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.extraEgress) -}}
  {{- range include "sluiceway.places" . | fromJsonArray -}}
    {{- if not .port }}
- networkPolicy: {{ .where }} hides its port in a variable, so no rule can be made for it; write the port, or a rule in networkPolicy.extraEgress
    {{- end -}}
  {{- end -}}
  {{- range $name, $backend := .Values.config.backends -}}
    {{- if $backend.list }}
- networkPolicy: config.backends.{{ $name }}.list is read while the gateway runs, so no rule can be made for it; write one in networkPolicy.extraEgress
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}
