{{- define "darkroom.name" -}}
{{- if contains "darkroom" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-darkroom" (.Release.Name | trunc 41 | trimSuffix "-") -}}
{{- end -}}
{{- end }}

{{- define "darkroom.selector" -}}
app.kubernetes.io/name: darkroom
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "darkroom.labels" -}}
{{ include "darkroom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "darkroom.hasDatabase" -}}
{{- if or .Values.database.url .Values.database.existingSecret .Values.postgresql.enabled }}yes{{ end -}}
{{- end }}

{{- define "darkroom.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "darkroom.name" .)) -}}
{{- end }}

{{/* Whether there may ever be several pods. */}}
{{- define "darkroom.several" -}}
{{- if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled }}yes{{ end -}}
{{- end }}

{{- define "darkroom.sharesData" -}}
{{- if or .Values.data.shared .Values.data.existingClaim }}yes{{ end -}}
{{- end }}

{{/* Fails where the values contradict each other, in words of the values. */}}
{{- define "darkroom.check" -}}
{{- if include "darkroom.several" . }}
{{- if not (include "darkroom.hasDatabase" .) }}
{{- fail "replicas above 1 and autoscaling need a database that all pods share: set database.url, database.existingSecret or postgresql.enabled." }}
{{- end }}
{{- if not (include "darkroom.sharesData" .) }}
{{- fail "replicas above 1 and autoscaling need a volume that all pods share: set data.shared or data.existingClaim." }}
{{- end }}
{{- end }}
{{- if and .Values.postgresql.enabled (or .Values.database.url .Values.database.existingSecret) }}
{{- fail "postgresql.enabled and database.url or database.existingSecret exclude each other." }}
{{- end }}
{{- end }}

{{- define "darkroom.readinessPath" -}}
{{- $one := "" -}}
{{- if eq (len .Values.families) 1 }}{{ $one = first .Values.families }}{{ end -}}
{{- with .Values.probes.readinessFamily | default $one }}/health/{{ . }}{{ else }}/health{{ end -}}
{{- end }}

{{/* The environment, mounts and rights of both containers: the one that exports and the one that serves. */}}
{{- define "darkroom.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: DRAIN_TIMEOUT
    value: {{ .Values.drainTimeout | quote }}
  {{- with .Values.families }}
  - name: FAMILIES
    value: {{ join "," . | quote }}
  {{- end }}
  {{- with .Values.forwardedAllowIps }}
  - name: FORWARDED_ALLOW_IPS
    value: {{ . | quote }}
  {{- end }}
  {{- if .Values.shareTritons }}
  - name: TRITON_GRPC
    value: "dns:///{{ include "darkroom.name" . }}-pods:8001"
  - name: TRITON_GRPC_BIND
    value: "0.0.0.0"
  - name: TRITON_METRICS_BIND
    value: "0.0.0.0"
  {{- end }}
  {{- if not (int .Values.gpus) }}
  - name: NUM_GPUS_TO_USE
    value: "0"
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - name: {{ $name }}
    value: {{ $value | toString | quote }}
  {{- end }}
  {{- if include "darkroom.hasDatabase" . }}
  - name: DATABASE_URL
    valueFrom:
      secretKeyRef:
        name: {{ include "darkroom.databaseSecret" . }}
        key: DATABASE_URL
  {{- end }}
{{- with .Values.secretSettings }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- $limits := .Values.resources.limits | default dict }}
  {{- if int .Values.gpus }}
  {{- $limits = merge (dict .Values.gpuResource (int .Values.gpus)) $limits }}
  {{- end }}
  {{- with .Values.resources.requests }}
  requests: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $limits }}
  limits: {{- toYaml . | nindent 4 }}
  {{- end }}
volumeMounts:
  - name: state
    mountPath: /var/lib/darkroom
  {{- if include "darkroom.sharesData" . }}
  - name: data
    mountPath: /var/lib/darkroom/data
  {{- end }}
  - name: logs
    mountPath: /var/log/darkroom
  - name: tmp
    mountPath: /tmp
  - name: shared-memory
    mountPath: /dev/shm
{{- end }}
