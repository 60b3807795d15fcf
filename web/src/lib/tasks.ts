import { computed, signal } from "@preact/signals"
import { events, json, passes } from "./api"
import { kept } from "./stored"
import type { Result, State, Task } from "./types"

export const tasks = signal<Task[]>([])
/** Previews of running tasks, data URLs by the task's id. */
export const previews = signal<Record<string, string>>({})
export const tasksKnown = signal(false)
/** What this browser asked for, without images, by the task's id. */
export const requests = kept<Record<string, Record<string, unknown>>>("requests", {})
/** Tasks that the user has removed from the lists. */
export const hidden = kept<string[]>("hidden", [])

const SHOWN = 200
const REMEMBERED = 300
const POLL_MS = 1500
const FOLLOWED = 2 // a browser has six connections to a server, and images need some
const LIVE: State[] = ["queued", "processing", "paused"]

export const visible = computed(() => tasks.value.filter(task => !hidden.value.includes(task.task_id)))
export const isLive = (task: Task): boolean => LIVE.includes(task.status)

const followed = new Map<string, AbortController>()
let timer: ReturnType<typeof setTimeout> | undefined

function put(task: Task): void {
  const rest = tasks.value.filter(one => one.task_id !== task.task_id)
  const all = [task, ...rest].sort((one, other) => (other.created_at ?? "").localeCompare(one.created_at ?? ""))
  tasks.value = all.slice(0, SHOWN)
  if (!isLive(task)) dropPreview(task.task_id)
}

function dropPreview(id: string): void {
  const { [id]: _, ...rest } = previews.value
  previews.value = rest
}

/** Ask for the newest tasks, and go on asking while some of them run, or the service does not answer. */
export async function refresh(): Promise<void> {
  clearTimeout(timer)
  let again = false
  try {
    tasks.value = (await json<{ tasks: Task[] }>(`tasks?limit=${SHOWN}`)).tasks
    tasksKnown.value = true
  } catch (error) {
    again = passes(error)
  }
  follow()
  if (again || tasks.value.some(isLive)) timer = setTimeout(refresh, POLL_MS)
}

/** Follow the tasks that run, and then those that run next, for their steps and previews. */
function follow(): void {
  const live = tasks.value.filter(isLive).reverse()
  const wanted = [...live.filter(task => task.status === "processing"), ...live.filter(task => task.status === "queued")]
  const ids = wanted.slice(0, FOLLOWED).map(task => task.task_id)
  for (const [id, controller] of followed) if (!ids.includes(id)) controller.abort()
  for (const id of ids) if (!followed.has(id)) void read(id)
}

async function read(id: string): Promise<void> {
  const controller = new AbortController()
  followed.set(id, controller)
  try {
    for await (const { name, data } of events(`tasks/${id}/events`, controller.signal)) heard(id, name, data)
  } catch {
    // The list is asked for again, and says whether there is still something to follow.
  } finally {
    followed.delete(id)
  }
}

function heard(id: string, name: string, data: unknown): void {
  if (name === "state" || name === "done") put(data as Task)
  if (name === "preview") previews.value = { ...previews.value, [id]: (data as { image: string }).image }
  if (name === "step") {
    const said = data as { step: number; total_steps: number; progress: number }
    tasks.value = tasks.value.map(task => (task.task_id === id ? { ...task, ...said } : task))
  }
}

function remember(id: string, fields: Record<string, unknown>): void {
  const known = Object.entries(requests.value).slice(-REMEMBERED + 1)
  requests.value = { ...Object.fromEntries(known), [id]: fields }
}

/**
 * Begin a task. The request has a key, so that it can be sent again without making a second task.
 *
 * @param files images by the names of their fields; a list is sent as several parts.
 * @throws Refused
 */
export async function submit(
  operation: string,
  fields: Record<string, unknown>,
  files: Record<string, Blob | Blob[]> = {},
): Promise<Task> {
  const sent = { operation, ...fields }
  const body = Object.keys(files).length ? form(sent, files) : sent
  const task = await json<Task>("tasks", body, { headers: { "Idempotency-Key": unique() } })
  remember(task.task_id, sent)
  put(task)
  void refresh()
  return task
}

function form(fields: Record<string, unknown>, files: Record<string, Blob | Blob[]>): FormData {
  const made = new FormData()
  for (const [name, value] of Object.entries(fields))
    made.append(name, typeof value === "object" ? JSON.stringify(value) : String(value))
  for (const [name, value] of Object.entries(files))
    for (const file of Array.isArray(value) ? value : [value]) made.append(name, file, "image")
  return made
}

/** A key that is not used twice. `crypto.randomUUID` is there on pages with TLS and on this machine alone. */
function unique(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("")
}

/** @throws Refused */
export async function cancel(id: string): Promise<void> {
  put(await json<Task>(`tasks/${id}`, undefined, { method: "DELETE" }))
}

/** @throws Refused */
export async function pause(id: string, how: "pause" | "resume"): Promise<void> {
  put(await json<Task>(`tasks/${id}/${how}`, undefined, { method: "POST" }))
  void refresh()
}

/** Remove a task from the lists of this browser. Its files stay until the service deletes them. */
export function hide(id: string): void {
  hidden.value = [...hidden.value.slice(-1000), id]
}

/** Where a result is, relative to the page: the service may be known by other names than its own. */
export function urlOf(result: Result, task: Task): string {
  return result.filename === undefined && result.media_type.startsWith("image/")
    ? `images/${encodeURIComponent(result.name)}`
    : `tasks/${task.task_id}/results/${encodeURIComponent(result.filename ?? result.name)}`
}

/** The images among the results of a task. */
export function imagesOf(task: Task): Result[] {
  return task.results.filter(result => result.media_type.startsWith("image/") && !result.details.control_map)
}

/** The results that are no images, as the LoRA of a training. */
export function filesOf(task: Task): Result[] {
  return task.results.filter(result => !result.media_type.startsWith("image/"))
}

/** The map that the ControlNet read, where the task kept it. */
export function controlMapOf(task: Task): Result | undefined {
  return task.results.find(result => result.details.control_map)
}
