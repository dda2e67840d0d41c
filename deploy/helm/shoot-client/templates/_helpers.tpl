{{- define "name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, which usually says it all. */}}
{{- define "fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "selectorLabels" -}}
app.kubernetes.io/name: {{ include "name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "labels" -}}
{{ include "selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tendril
{{- end -}}

{{- define "image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if hasPrefix "@" $tag -}}{{ .Values.image.repository }}{{ $tag }}{{- else -}}{{ .Values.image.repository }}:{{ $tag }}{{- end -}}
{{- end -}}

{{/* The port of an address to listen on, such as ":8443" or "[::]:8443". */}}
{{- define "port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* Whole seconds of a duration such as 30s, 5m or 500ms, rounded up. */}}
{{- define "seconds" -}}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) (regexFind "[a-z]+$" .) -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) $factor | ceil | int -}}
{{- end -}}

{{/* A volume with tls.crt, tls.key and ca.crt, whatever they are called where they come from. */}}
{{- define "certificateVolume" -}}
projected:
  # Root's, and readable by the group that fsGroup names: nobody else in the pod.
  defaultMode: 0400
  sources:
    - secret:
        name: {{ .secretName }}
        items:
          - { key: {{ .certKey }}, path: tls.crt }
          - { key: {{ .keyKey }}, path: tls.key }
    {{- if .ca.configMapName }}
    - configMap:
        name: {{ .ca.configMapName }}
        items:
          - { key: {{ .ca.key }}, path: ca.crt }
    {{- else }}
    - secret:
        name: {{ default .secretName .ca.secretName }}
        items:
          - { key: {{ .ca.key }}, path: ca.crt }
    {{- end }}
{{- end -}}

{{/* Where pods of this chart like to be: in different zones and on different nodes. */}}
{{- define "placement" -}}
topologySpreadConstraints:
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:{{ include "selectorLabels" . | nindent 8 }}
affinity:
{{- if .Values.affinity }}{{ toYaml .Values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:{{ include "selectorLabels" . | nindent 14 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:{{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:{{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The configuration file: the value `config`, and the paths of the certificates. */}}
{{- define "config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "tls" (merge (dict "ca" "/etc/tendril/tunnel/ca.crt" "cert" "/etc/tendril/tunnel/tls.crt" "key" "/etc/tendril/tunnel/tls.key") (default dict $config.tls)) -}}
{{- with .Values.certificates.proxyCa }}{{ if or .secretName .configMapName }}{{ $_ := set $config "proxyCa" "/etc/tendril/proxy/ca.crt" }}{{ end }}{{ end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The port of a URL: the one it names, or its scheme's. */}}
{{- define "urlPort" -}}
{{- $url := lower . -}}
{{- $named := regexFind "^[a-z]+://[^/]*" $url | regexFind ":[0-9]+$" | trimPrefix ":" -}}
{{- default (ternary "80" "443" (or (hasPrefix "http:" $url) (hasPrefix "ws:" $url))) $named -}}
{{- end -}}
