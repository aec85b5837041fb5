{{/* Name of the release's objects, at most 52 characters, so that suffixes fit. */}}
{{- define "nkudo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains "nkudo" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-nkudo" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nkudo.selectorLabels" -}}
app.kubernetes.io/name: nkudo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nkudo.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "nkudo.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: nkudo
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "nkudo.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "nkudo.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name must name the ServiceAccount when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* image: dict with root, image (repository, tag, digest) and the tag when there is none. */}}
{{- define "nkudo.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.imageRegistry }}{{- $repository = printf "%s/%s" . $repository -}}{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{- define "nkudo.controllerImage" -}}
{{- include "nkudo.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}

{{/* secret, urls or embedded. Fails when the values say two of them, or none. */}}
{{- define "nkudo.databaseKind" -}}
{{- $database := .Values.database -}}
{{- $urls := or $database.url $database.systemUrl $database.adminUrl -}}
{{- if and $database.existingSecret $urls -}}
{{- fail "write only one of database.existingSecret and database.url, systemUrl, adminUrl" -}}
{{- else if $database.existingSecret -}}
secret
{{- else if $urls -}}
{{- if not (and $database.url $database.systemUrl (or $database.adminUrl $database.admin.existingSecret)) -}}
{{- fail "write all of database.url, database.systemUrl and database.adminUrl (or database.admin.existingSecret)" -}}
{{- end -}}
urls
{{- else if $database.embedded.enabled -}}
embedded
{{- else -}}
{{- fail "the controller needs a Postgres: write database.existingSecret, or database.url with systemUrl and adminUrl, or database.embedded.enabled: true" -}}
{{- end -}}
{{- end -}}

{{- define "nkudo.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "nkudo.fullname" .)) -}}
{{- end -}}

{{- define "nkudo.databaseKey" -}}
{{- if eq (include "nkudo.databaseKind" .root) "secret" -}}
{{- get .root.Values.database.keys .key -}}
{{- else -}}
{{- .key -}}
{{- end -}}
{{- end -}}

{{/* Environment with the two roles of the controller; dict with root and secret. */}}
{{- define "nkudo.databaseEnvironment" -}}
- name: NKUDO_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ include "nkudo.databaseKey" (dict "root" .root "key" "url") }}
- name: NKUDO_DATABASE_SYSTEM_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ include "nkudo.databaseKey" (dict "root" .root "key" "systemUrl") }}
{{- if and (eq (include "nkudo.databaseKind" .root) "secret") .root.Values.database.keys.chainerUrl }}
- name: NKUDO_DATABASE_CHAINER_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .root.Values.database.keys.chainerUrl }}
{{- end }}
{{- end -}}

{{/* What hosts dial. */}}
{{- define "nkudo.advertise" -}}
{{- if .Values.edge.advertise -}}
{{- .Values.edge.advertise -}}
{{- else if eq .Values.edge.service.type "NodePort" -}}
{{- printf "$(NODE_IP):%d" (int .Values.edge.service.nodePort) -}}
{{- else -}}
{{- fail (printf "write edge.advertise, the host:port at which hosts reach the Service of type %s, such as nkudo.example.com:443: it is written into enrollment tokens" .Values.edge.service.type) -}}
{{- end -}}
{{- end -}}

{{- define "nkudo.tlsSecret" -}}
{{- $tls := .Values.api.tls -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- fail "write only one of api.tls.existingSecret and api.tls.certManager.enabled" -}}
{{- else if $tls.certManager.enabled -}}
{{- printf "%s-api-tls" (include "nkudo.fullname" .) -}}
{{- else -}}
{{- $tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Of every pod: what the restricted pod security standard asks for. */}}
{{- define "nkudo.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "nkudo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* User of the controller's image. */}}
{{- define "nkudo.userId" -}}65532{{- end -}}
