/** What the service answers, as far as the studio reads it; `/openapi.json` has all of it. */

export interface Field {
  type: string | string[]
  description?: string
  default?: unknown
  minimum?: number
  maximum?: number
  multipleOf?: number
  maxLength?: number
  maxItems?: number
  pattern?: string
  enum?: (string | null)[]
  contentEncoding?: string
}

export interface Model {
  name: string
  family: string
  title: string
  operations: string[]
  installed: boolean
  ready: boolean
  default_for: string[]
  checkpoint?: { name: string; hash: string; side: number | null } | null
  fields?: Record<string, Field>
  limits?: Record<string, number>
  controls?: string[]
  hint?: string
}

export interface Result {
  name: string
  filename?: string
  media_type: string
  bytes: number
  details: Record<string, unknown>
  url: string
}

export type State = "queued" | "processing" | "paused" | "completed" | "failed" | "cancelled"

export interface Task {
  task_id: string
  operation: string
  model: string | null
  status: State
  progress: number
  step: number
  total_steps: number
  queue_position: number | null
  estimated_time: number
  created_at: string | null
  completed_at: string | null
  processing_time: number | null
  results: Result[]
  error: { code: string; message: string; param: string | null } | null
}

export interface Lora {
  name: string
  digest: string
  size: number
  modified: string
}

export interface EditMode {
  mode: number
  name: string
  description: string
  requires_multiple_images: boolean
  requires_controlnet: boolean
  requires_text_params: boolean
  min_images: number
  max_images: number
}

export interface FamilyHealth {
  ready: boolean
  reason: string | null
  models: string[]
}

export interface Health {
  status: "healthy" | "unhealthy" | "draining"
  darkroom_version: string
  reason: string | null
  queue_length: number
  active_tasks: number
  total_tasks: number
  families: Record<string, FamilyHealth>
}

export interface Status {
  active_tasks: number
  pending_tasks: number
  finished_tasks: number
  max_concurrent_tasks: number
  max_queue_size: number
  task_queue_size: number
  draining: boolean
  uptime_seconds: number
  gpu_info: { gpu_id: number; name: string; memory_allocated: number; memory_reserved: number }[]
  tritons: TritonStatus[]
}

export interface TritonStatus {
  address: string
  ready: boolean
  reason: string
  active_calls: number
  families: Record<string, FamilyHealth>
}

export interface Training {
  status: "none" | "in-progress" | "completed" | "error"
  progress: number
  task_id?: string
  lora?: string
  message?: string
  paused?: boolean
  step?: number
  total_steps?: number
  loss?: number | null
}

export interface Session {
  session_id: string
  latest_lora: string | null
  image_groups: number
  training: Training
}
