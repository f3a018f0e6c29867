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

{{- define "leaderlease.endpoints" -}}
{{- $name := include "leaderlease.node" . -}}
{{- $endpoints := list -}}
{{- range $i := until (int .Values.node.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s-%d.%s.%s.svc:7400" $name $i $name $.Release.Namespace) -}}
{{- end -}}
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
The Secrets of mode selfSigned as YAML: node-ca, node, operator, webhook-ca, webhook. What exists is kept; leaves that
end soon are issued anew by the authority that exists. Made once for each rendering, so that all templates agree.
*/}}
{{- define "leaderlease.selfSigned" -}}
{{- if not (hasKey .Values "_selfSigned") -}}
{{- $own := .Values.tls.selfSigned -}}
{{- $prefix := include "leaderlease.fullname" . -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $result := dict -}}
{{- range $kind, $leaves := dict "node" (list "node" "operator") "webhook" (list "webhook") -}}
{{- $kept := lookup "v1" "Secret" $.Release.Namespace (printf "%s-%s-ca" $prefix $kind) | default dict -}}
{{- $ca := dict -}}
{{- $isNew := not (hasKey ($kept.data | default dict) "tls.key") -}}
{{- if $isNew -}}
{{- $ca = genCA (printf "leaderlease-%s-ca" $kind) (int $own.caDays) -}}
{{- else -}}
{{- $ca = buildCustomCert (index $kept.data "tls.crt") (index $kept.data "tls.key") -}}
{{- end -}}
{{- $_ := set $result (printf "%s-ca" $kind) (dict "crt" $ca.Cert "key" $ca.Key "ca" $ca.Cert "end" "") -}}
{{- range $leaf := $leaves -}}
{{- $old := lookup "v1" "Secret" $.Release.Namespace (printf "%s-%s-tls" $prefix $leaf) | default dict -}}
{{- $end := dig "metadata" "annotations" "leaderlease.dev/ends-at" "0" $old | int64 -}}
{{- $names := list -}}
{{- if eq $leaf "operator" -}}
{{- $names = list (include "leaderlease.operator" $) -}}
{{- else -}}
{{- range include (ternary "leaderlease.webhookDnsNames" "leaderlease.nodeDnsNames" (eq $leaf "webhook")) $ | splitList "\n" -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- $wanted := join "," $names | sha256sum -}}
{{- $isKept := and (not $isNew) (hasKey ($old.data | default dict) "tls.key") (eq $wanted (dig "metadata" "annotations" "leaderlease.dev/names" "" $old)) (gt $end (add $now (mul 86400 (int $own.renewBeforeDays)))) -}}
{{- if $isKept -}}
{{- $_ := set $result $leaf (dict "crt" (index $old.data "tls.crt" | b64dec) "key" (index $old.data "tls.key" | b64dec) "ca" $ca.Cert "end" (toString $end) "names" $wanted) -}}
{{- else -}}
{{- $addresses := ternary (list "127.0.0.1") (list) (eq $leaf "node") -}}
{{- $cert := genSignedCert (printf "leaderlease-%s" $leaf) $addresses $names (int $own.certDays) $ca -}}
{{- $_ := set $result $leaf (dict "crt" $cert.Cert "key" $cert.Key "ca" $ca.Cert "end" (add $now (mul 86400 (int $own.certDays)) | toString) "names" $wanted) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values "_selfSigned" $result -}}
{{- end -}}
{{- .Values._selfSigned | toYaml -}}
{{- end -}}
