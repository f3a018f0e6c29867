{{- define "leaderlease.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all names. 40 characters leave room for -operator, ordinals and the hashes of controllers. */}}
{{- define "leaderlease.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "leaderlease.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "leaderlease.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-wide objects: two releases of one name in two namespaces must not meet. */}}
{{- define "leaderlease.clusterName" -}}
{{- printf "%s-%s" (include "leaderlease.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "leaderlease.node" -}}{{ include "leaderlease.fullname" . }}-node{{- end -}}
{{- define "leaderlease.operator" -}}{{ include "leaderlease.fullname" . }}-operator{{- end -}}

{{/* Never changes: selectors of StatefulSets and Deployments cannot. */}}
{{- define "leaderlease.selectorLabels" -}}
app.kubernetes.io/name: {{ include "leaderlease.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "leaderlease.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "leaderlease.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: leaderlease
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "image" .Values.images.agent "root" $) */}}
{{- define "leaderlease.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "leaderlease.majority" -}}
{{- add (div (int .Values.node.replicas) 2) 1 -}}
{{- end -}}

{{- define "leaderlease.peers" -}}
{{- $name := include "leaderlease.node" . -}}
{{- $peers := list -}}
{{- range $i := until (int .Values.node.replicas) -}}
{{- $peers = append $peers (printf "%s-%d=%s-%d.%s.%s.svc:7401" $name $i $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $peers -}}
{{- end -}}

{{/* The Service comes last: after restarts the names of all nodes can be old in a DNS cache, its address never is. */}}
{{- define "leaderlease.endpoints" -}}
{{- $name := include "leaderlease.node" . -}}
{{- $endpoints := list -}}
{{- range $i := until (int .Values.node.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s-%d.%s.%s.svc:7400" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- $endpoints = append $endpoints (printf "%s.%s.svc:7400" (include "leaderlease.fullname" .) .Release.Namespace) -}}
{{- join "," $endpoints -}}
{{- end -}}

{{/* Told, else of the LeaderQuorum that exists, else the same for ever in this cluster, namespace and release. */}}
{{- define "leaderlease.clusterUID" -}}
{{- $existing := "" -}}
{{- if .Capabilities.APIVersions.Has "leaderlease.dev/v1alpha1/LeaderQuorum" -}}
{{- $quorum := lookup "leaderlease.dev/v1alpha1" "LeaderQuorum" "" .Values.quorum.name | default dict -}}
{{- $existing = dig "spec" "clusterUID" "" $quorum -}}
{{- end -}}
{{- if .Values.quorum.clusterUID -}}
{{- .Values.quorum.clusterUID -}}
{{- else if $existing -}}
{{- $existing -}}
{{- else -}}
{{- $system := lookup "v1" "Namespace" "" "kube-system" | default dict -}}
{{- $hash := printf "%s/%s/%s" (dig "metadata" "uid" "" $system) .Release.Namespace (include "leaderlease.fullname" .) | sha256sum -}}
{{- printf "%s-%s-8%s-a%s-%s" (substr 0 8 $hash) (substr 8 12 $hash) (substr 13 16 $hash) (substr 17 20 $hash) (substr 20 32 $hash) -}}
{{- end -}}
{{- end -}}

{{- define "leaderlease.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "leaderlease.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* (dict "spread" ... "labels" ...) */}}
{{- define "leaderlease.topologySpread" -}}
{{- with .spread.host }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ . }}
  labelSelector:
    matchLabels: {{- $.labels | nindent 6 }}
{{- end }}
{{- with .spread.zone }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: {{ . }}
  labelSelector:
    matchLabels: {{- $.labels | nindent 6 }}
{{- end }}
{{- end -}}

{{/* What a pod needs to talk to the API server, because no token is mounted by itself. */}}
{{- define "leaderlease.apiTokenVolume" -}}
name: api-token
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}

{{/* Secrets with ca.crt, tls.crt and tls.key. */}}
{{- define "leaderlease.nodeTlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" }}{{ .Values.tls.existingSecret.node }}{{ else }}{{ include "leaderlease.fullname" . }}-node-tls{{ end -}}
{{- end -}}
{{- define "leaderlease.operatorTlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" }}{{ .Values.tls.existingSecret.operator }}{{ else }}{{ include "leaderlease.fullname" . }}-operator-tls{{ end -}}
{{- end -}}
{{- define "leaderlease.webhookTlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" }}{{ .Values.tls.existingSecret.webhook }}{{ else }}{{ include "leaderlease.fullname" . }}-webhook-tls{{ end -}}
{{- end -}}

{{/* Names in the certificates, one a line. */}}
{{- define "leaderlease.nodeDnsNames" -}}
{{- $node := include "leaderlease.node" . -}}
{{- $client := include "leaderlease.fullname" . -}}
{{- $names := list "localhost" -}}
{{- range $suffix := list .Release.Namespace (printf "%s.svc" .Release.Namespace) (printf "%s.svc.cluster.local" .Release.Namespace) -}}
{{- $names = concat $names (list (printf "*.%s.%s" $node $suffix) (printf "%s.%s" $client $suffix)) -}}
{{- end -}}
{{- join "\n" $names -}}
{{- end -}}
{{- define "leaderlease.webhookDnsNames" -}}
{{- $name := printf "%s-webhook" (include "leaderlease.fullname" .) -}}
{{ $name }}.{{ .Release.Namespace }}.svc
{{ $name }}.{{ .Release.Namespace }}.svc.cluster.local
{{- end -}}

{{/*
An authority of mode selfSigned as YAML: crt, key, next, nextKey, previous, since, rotated, end, and ca, all that are
trusted. What exists is kept until it would end before the certificates that it signs, or until its Secret is annotated
with leaderlease.dev/rotate. Then the next one is trusted for an overlap, signs after it, and the one before goes after
another. (dict "kind" "node" "now" 123 "root" $)
*/}}
{{- define "leaderlease.authority" -}}
{{- $own := .root.Values.tls.selfSigned -}}
{{- $kept := lookup "v1" "Secret" .root.Release.Namespace (printf "%s-%s-ca" (include "leaderlease.fullname" .root) .kind) | default dict -}}
{{- $data := $kept.data | default dict -}}
{{- $notes := dig "metadata" "annotations" dict $kept | default dict -}}
{{- $asked := dig "leaderlease.dev/rotate" "" $notes -}}
{{- $since := dig "leaderlease.dev/since" "0" $notes | int64 -}}
{{- $end := dig "leaderlease.dev/ends-at" "" $notes | int64 -}}
{{- $overlap := mul 3600 (int $own.caOverlapHours) -}}
{{- $life := mul 86400 (int $own.caDays) -}}
{{- $isOver := ge .now (add $since $overlap) -}}
{{- $before := min (add (mul 86400 (int $own.certDays)) (mul 2 $overlap)) (div $life 3) -}}
{{- $name := printf "leaderlease-%s-ca" .kind -}}
{{- $one := dict "crt" (dig "tls.crt" "" $data | b64dec) "key" (dig "tls.key" "" $data | b64dec) "end" $end "rotated" (dig "leaderlease.dev/rotated" "" $notes) -}}
{{- if not (hasKey $data "tls.key") -}}
{{- $ca := genCA $name (int $own.caDays) -}}
{{- $one = dict "crt" $ca.Cert "key" $ca.Key "end" (add .now $life) "rotated" $asked -}}
{{- else if and (hasKey $data "next.key") (or $isOver (and $end (ge .now $end))) -}}
{{- $one = dict "crt" (index $data "next.crt" | b64dec) "key" (index $data "next.key" | b64dec) "previous" $one.crt "since" .now "end" (add $since $life) "rotated" $one.rotated -}}
{{- else if hasKey $data "next.key" -}}
{{- $one = merge $one (dict "next" (index $data "next.crt" | b64dec) "nextKey" (index $data "next.key" | b64dec) "since" $since) -}}
{{- else if hasKey $data "previous.crt" -}}
{{- if not $isOver -}}
{{- $one = merge $one (dict "previous" (index $data "previous.crt" | b64dec) "since" $since) -}}
{{- end -}}
{{- else if or (and $asked (ne $asked $one.rotated)) (and $end (ge .now (sub $end $before))) -}}
{{- $ca := genCA $name (int $own.caDays) -}}
{{- $one = merge (dict "rotated" $asked "next" $ca.Cert "nextKey" $ca.Key "since" .now) $one -}}
{{- end -}}
{{- $trusted := list -}}
{{- range list $one.crt $one.next $one.previous -}}
{{- if . -}}{{- $trusted = append $trusted (trimSuffix "\n" .) -}}{{- end -}}
{{- end -}}
{{- $_ := set $one "ca" (printf "%s\n" (join "\n" $trusted)) -}}
{{- $_ := set $one "end" (ternary (toString (int64 $one.end)) "" (gt (int64 $one.end) 0)) -}}
{{- $_ := set $one "since" (ternary (toString (int64 $one.since)) "" (gt (int64 $one.since) 0)) -}}
{{- toYaml $one -}}
{{- end -}}

{{/*
The Secrets of mode selfSigned as YAML: node-ca, node, operator, webhook-ca, webhook. Leaves are kept unless they end soon,
were issued for other names, or by another authority. Made once for each rendering, so that all templates agree.
*/}}
{{- define "leaderlease.selfSigned" -}}
{{- if not (hasKey .Values "_selfSigned") -}}
{{- $own := .Values.tls.selfSigned -}}
{{- $prefix := include "leaderlease.fullname" . -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $result := dict -}}
{{- range $kind, $leaves := dict "node" (list "node" "operator") "webhook" (list "webhook") -}}
{{- $authority := include "leaderlease.authority" (dict "kind" $kind "now" $now "root" $) | fromYaml -}}
{{- $_ := set $result (printf "%s-ca" $kind) $authority -}}
{{- $ca := buildCustomCert (b64enc $authority.crt) (b64enc $authority.key) -}}
{{- $issuer := $authority.crt | trim | sha256sum -}}
{{- range $leaf := $leaves -}}
{{- $old := lookup "v1" "Secret" $.Release.Namespace (printf "%s-%s-tls" $prefix $leaf) | default dict -}}
{{- $notes := dig "metadata" "annotations" dict $old | default dict -}}
{{- $end := dig "leaderlease.dev/ends-at" "0" $notes | int64 -}}
{{- $names := list -}}
{{- if eq $leaf "operator" -}}
{{- $names = list (include "leaderlease.operator" $) -}}
{{- else -}}
{{- range include (ternary "leaderlease.webhookDnsNames" "leaderlease.nodeDnsNames" (eq $leaf "webhook")) $ | splitList "\n" -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- $wanted := join "," $names | sha256sum -}}
{{- $isOurs := and (hasKey ($old.data | default dict) "tls.key") (eq $issuer (dig "leaderlease.dev/issuer" (ternary $issuer "" (empty $authority.previous)) $notes)) -}}
{{- $isKept := and $isOurs (eq $wanted (dig "leaderlease.dev/names" "" $notes)) (gt $end (add $now (mul 86400 (int $own.renewBeforeDays)))) -}}
{{- $one := dict "ca" $authority.ca "end" (toString $end) "names" $wanted "issuer" $issuer -}}
{{- if $isKept -}}
{{- $_ := set $result $leaf (merge $one (dict "crt" (index $old.data "tls.crt" | b64dec) "key" (index $old.data "tls.key" | b64dec))) -}}
{{- else -}}
{{- $addresses := ternary (list "127.0.0.1") (list) (eq $leaf "node") -}}
{{- $cert := genSignedCert (printf "leaderlease-%s" $leaf) $addresses $names (int $own.certDays) $ca -}}
{{- $_ := set $result $leaf (merge (dict "end" (add $now (mul 86400 (int $own.certDays)) | toString)) $one (dict "crt" $cert.Cert "key" $cert.Key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values "_selfSigned" $result -}}
{{- end -}}
{{- .Values._selfSigned | toYaml -}}
{{- end -}}
