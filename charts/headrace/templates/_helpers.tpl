{{/* Names. All but the Lease begin with the release; 40 characters leave room for KubeRay's own endings. */}}
{{- define "headrace.name" -}}
{{- contains "headrace" .Release.Name | ternary .Release.Name (printf "%s-headrace" .Release.Name) | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Also asked by the chart of NATS, in its own context. */}}
{{- define "headrace.secret" -}}
{{- dig "headraceSecret" "" (.Values.global | default dict) | default (include "headrace.name" .) }}
{{- end }}

{{/* As `nats.fullname` of the chart of NATS. */}}
{{- define "headrace.nats" -}}
{{- contains "nats" .Release.Name | ternary .Release.Name (printf "%s-nats" .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Of what belongs to the whole cluster: no two installations share one. */}}
{{- define "headrace.clusterWide" -}}
{{- printf "%s:%s:pool" .Release.Namespace (include "headrace.name" .) }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* `(dict "image" … "root" $)` → by digest, or by tag. */}}
{{- define "headrace.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "headrace.natsReplicas" -}}
{{- if not .Values.nats.enabled }}{{ .Values.bus.replicas }}{{ else if .Values.nats.config.cluster.enabled }}3{{ else }}1{{ end }}
{{- end }}

{{/* The configuration of every service, as JSON: what was set, then what follows from this release. */}}
{{- define "headrace.configuration" -}}
{{- $name := include "headrace.name" . }}
{{- $ours := dict
  "state" "/state"
  "host" .Values.listen
  "health_port" 8080
  "nats_url" (.Values.nats.enabled | ternary (printf "nats://%s.%s.svc:4222" (include "headrace.nats" .) .Release.Namespace) .Values.bus.url)
  "nats_user" .Values.bus.user
  "replicas" (include "headrace.natsReplicas" . | int)
  "blobs_url" .Values.blobs.url
  "ray_address" (printf "ray://%s-head-svc.%s.svc:10001" $name .Release.Namespace)
  "gateway_port" (.Values.gateway.port | int)
  "otlp_port" (.Values.monitoring.port | int)
  "otlp_url" (printf "http://%s-otlp.%s.svc:%d" $name .Release.Namespace (.Values.monitoring.port | int))
  "node_folder" .Values.node.folder
  "attempt_uids" .Values.node.attemptUids
  "kubernetes_pool" .Values.pool.name
  "kubernetes_namespace" .Release.Namespace
  "kubernetes_cluster" $name
  "kubernetes_node_image" (include "headrace.image" (dict "image" .Values.node.image "root" $))
  "kubernetes_ray_version" .Values.node.rayVersion
  "kubernetes_token_secret" (include "headrace.secret" .)
  "kubernetes_node_secret" .Values.blobs.existingSecret
  "kubernetes_head_claim" (include "headrace.headClaim" .)
}}
{{- mergeOverwrite (deepCopy .Values.config) $ours | toJson }}
{{- end }}

{{- define "headrace.headClaim" -}}
{{- with .Values.node.head.persistence }}
{{- if .enabled }}{{ .existingClaim | default (printf "%s-head" (include "headrace.name" $)) }}{{ end }}
{{- end }}
{{- end }}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* `(dict "key" … "root" $)` → a value of the Secret. */}}
{{- define "headrace.fromSecret" -}}
valueFrom: {secretKeyRef: {name: {{ include "headrace.secret" .root }}, key: {{ .key }}}}
{{- end }}

{{/* A service: `(dict "service" "gateway" "replicas" 2 "ports" (dict "http" 8470) "root" $)`. */}}
{{- define "headrace.deployment" -}}
{{- $root := .root }}
{{- $name := include "headrace.name" $root }}
{{- $values := index $root.Values .service }}
{{- $monitoring := eq .service "monitoring" }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}-{{ .service }}
  labels:
    {{- include "headrace.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
spec:
  replicas: {{ .replicas }}
  revisionHistoryLimit: 3
  strategy:
    {{- if .alone }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
    {{- end }}
  selector:
    matchLabels:
      {{- include "headrace.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .service }}
  template:
    metadata:
      labels:
        {{- include "headrace.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .service }}
      annotations:
        checksum/configuration: {{ include "headrace.configuration" $root | sha256sum }}
    spec:
      serviceAccountName: {{ eq .service "pool" | ternary (printf "%s-pool" $name) $name }}
      automountServiceAccountToken: {{ eq .service "pool" }}
      # Else Kubernetes would set HEADRACE_GATEWAY_PORT=tcp://…, which is a setting.
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext: {{ include "headrace.podSecurity" $root | nindent 8 }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $root.Values.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if not .alone }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- include "headrace.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ $.service }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ .service }}
          image: {{ include "headrace.image" (dict "image" $root.Values.image "root" $root) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [python, -m, controlplane, {{ .service }}, --config, /etc/headrace/headrace.json]
          env:
            - {name: HOME, value: /tmp}
            - name: HEADRACE_NATS_PASSWORD
              {{- include "headrace.fromSecret" (dict "key" "nats-password" "root" $root) | nindent 14 }}
            - name: HEADRACE_OTLP_SECRET
              {{- include "headrace.fromSecret" (dict "key" "otlp-secret" "root" $root) | nindent 14 }}
            {{- if eq .service "capacity" }}
            - {name: RAY_AUTH_MODE, value: token}
            - name: RAY_AUTH_TOKEN
              {{- include "headrace.fromSecret" (dict "key" "auth_token" "root" $root) | nindent 14 }}
            - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
            {{- end }}
          {{- with $root.Values.blobs.existingSecret }}
          envFrom:
            - secretRef: {name: {{ . }}}
          {{- end }}
          ports:
            - {name: health, containerPort: 8080}
            {{- range $port, $number := .ports }}
            - {name: {{ $port }}, containerPort: {{ $number }}}
            {{- end }}
          livenessProbe:
            httpGet: {path: /healthz, port: health}
            initialDelaySeconds: 10
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 5
            timeoutSeconds: 5
          {{- if .ports }}
          lifecycle:
            preStop: {exec: {command: [sleep, "5"]}}  # until nobody is sent here any more
          {{- end }}
          resources: {{ toYaml $values.resources | nindent 12 }}
          securityContext: {{ include "headrace.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - {name: configuration, mountPath: /etc/headrace, readOnly: true}
            - {name: state, mountPath: /state}
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: configuration
          configMap: {name: {{ $name }}}
        - name: tmp
          emptyDir: {}
        - name: state
          {{- if $monitoring }}
          persistentVolumeClaim: {claimName: {{ $values.persistence.existingClaim | default (printf "%s-monitoring" $name) }}}
          {{- else }}
          emptyDir: {}
          {{- end }}
{{- end }}
