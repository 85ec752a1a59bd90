{{/*
Where the gateway calls, as rules of a NetworkPolicy. A policy is asked when a Service's address has already become a
pod's: so a rule for one of the cluster's own names tells no port, but where the URL's is the pods' own (`discover: dns`,
a headless Service). Names outside the cluster are nothing that a policy knows, which leaves the port.
*/}}

{{/* JSON of the host and the port of a URL; each is "" where a variable hides it. Of `url` and `usual`, its usual port. */}}
{{- define "sluiceway.place" -}}
{{- $url := regexReplaceAll (include "sluiceway.variable" .) .url "%" -}}
{{- $authority := regexFind "^[a-z0-9+.-]+://[^/?#]*" $url | splitList "://" | last | splitList "@" | last -}}
{{- $host := regexFind "^(\\[[^]]*\\]|[^:]*)" $authority -}}
{{- $port := trimPrefix $host $authority | trimPrefix ":" | default (toString .usual) -}}
{{- dict "host" (ternary "" $host (contains "%" $host)) "port" (ternary "" $port (contains "%" $port)) | toJson -}}
{{- end }}

{{/* JSON of the places that the file names, each with `where` it does, its host and port, and whether it is `headless`. */}}
{{- define "sluiceway.places" -}}
{{- $places := list -}}
{{- $urls := list -}}
{{- range $name, $backend := .Values.config.backends -}}
  {{- $urls = append $urls (dict "where" (printf "config.backends.%s.base_url" $name) "url" $backend.base_url "headless" (eq (toString $backend.discover) "dns")) -}}
{{- end -}}
{{- range $name, $issuer := .Values.config.issuers -}}
  {{- $urls = append $urls (dict "where" (printf "config.issuers.%s.issuer" $name) "url" $issuer.issuer) -}}
  {{- $urls = append $urls (dict "where" (printf "config.issuers.%s.jwks_url" $name) "url" $issuer.jwks_url) -}}
{{- end -}}
{{- with .Values.config.telemetry -}}
  {{- $urls = append $urls (dict "where" "config.telemetry.otlp_endpoint" "url" .otlp_endpoint) -}}
{{- end -}}
{{- range $urls -}}
  {{- if kindIs "string" .url -}}
    {{- $usual := ternary 443 80 (hasPrefix "https://" .url) -}}
    {{- if hasPrefix "http" .url -}}
      {{- $place := include "sluiceway.place" (dict "url" .url "usual" $usual) | fromJson -}}
      {{- $places = append $places (merge $place (dict "where" .where "headless" (.headless | default false))) -}}
    {{- else if hasPrefix "${" .url -}}
      {{- $places = append $places (dict "where" .where "host" "" "port" "" "headless" false) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $store := .Values.store.url -}}
{{- if regexMatch "^rediss?://" $store -}}
  {{- $place := include "sluiceway.place" (dict "url" $store "usual" 6379) | fromJson -}}
  {{- $places = append $places (merge $place (dict "where" "store.url" "headless" false)) -}}
{{- end -}}
{{- toJson $places -}}
{{- end }}

{{/* JSON of the rule for one place; nothing where it is this very pod, or known by its port alone. */}}
{{- define "sluiceway.placeRule" -}}
{{- $ports := list (dict "port" (.port | int) "protocol" "TCP") -}}
{{- $cluster := regexFind "[^.]+\\.svc(\\.|$)" .host -}}
{{- $to := dict -}}
{{- if or (eq .host "localhost") (hasPrefix "127." .host) (eq .host "[::1]") -}}
{{- else if regexMatch "^[0-9.]+$" .host -}}
  {{- dict "to" (list (dict "ipBlock" (dict "cidr" (printf "%s/32" .host)))) "ports" $ports | toJson -}}
{{- else if hasPrefix "[" .host -}}
  {{- dict "to" (list (dict "ipBlock" (dict "cidr" (printf "%s/128" (trimAll "[]" .host))))) "ports" $ports | toJson -}}
{{- else -}}
  {{- if $cluster -}}
    {{- $to = dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" (splitList "." $cluster | first))) -}}
  {{- else if and .host (not (contains "." .host)) -}}
    {{- $to = dict "podSelector" dict -}}
  {{- end -}}
  {{- if $to -}}
    {{- $rule := dict "to" (list $to) -}}
    {{- if .headless }}{{ $_ := set $rule "ports" $ports }}{{ end -}}
    {{- toJson $rule -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Whether a place is known by its port alone. */}}
{{- define "sluiceway.byPort" -}}
{{- if and .port (or (not .host) (and (contains "." .host) (not (regexMatch "^[0-9.]+$|^\\[|\\.svc(\\.|$)" .host)))) }}true{{ end -}}
{{- end }}

{{/* The rules for all places, each once, as YAML. */}}
{{- define "sluiceway.egress" -}}
{{- $rules := list -}}
{{- $ports := list -}}
{{- range include "sluiceway.places" . | fromJsonArray -}}
  {{- if include "sluiceway.byPort" . -}}
    {{- $ports = append $ports (.port | int) -}}
  {{- else if .port -}}
    {{- with include "sluiceway.placeRule" . }}{{ $rules = append $rules . }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- $told := or .Values.valkey.enabled (regexMatch "^(embedded$|unix://|rediss?://)" .Values.store.url) -}}
{{- if or .Values.networkPolicy.storeTo (not $told) -}}
  {{- $rule := dict "ports" list -}}
  {{- with .Values.networkPolicy.storeTo }}{{ $_ := set $rule "to" . }}{{ end -}}
  {{- range .Values.networkPolicy.storePorts }}{{ $_ := set $rule "ports" (append $rule.ports (dict "port" (int .) "protocol" "TCP")) }}{{ end -}}
  {{- $rules = append $rules (toJson $rule) -}}
{{- end -}}
{{- if $ports -}}
  {{- $rule := dict "ports" list -}}
  {{- range $ports | uniq }}{{ $_ := set $rule "ports" (append $rule.ports (dict "port" . "protocol" "TCP")) }}{{ end -}}
  {{- $rules = append $rules (toJson $rule) -}}
{{- end -}}
{{- range $rules | uniq }}
- {{ fromJson . | toYaml | nindent 2 | trim }}
{{- end -}}
{{- end }}
