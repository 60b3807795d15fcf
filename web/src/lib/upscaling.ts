/** Where images are upscaled: on the server, in this browser, or here while the server is away or full. */

import { signal } from "@preact/signals"
import { ask, message, passes, Refused } from "./api"
import { addJob, jobs, keep, loadNetworks, lookAtKept, offered, possible, run, type Job } from "./local"
import { kept } from "./stored"
import { submit } from "./tasks"
import type { Status } from "./types"

export type Place = "server" | "browser"

const BUILT: Place = import.meta.env.VITE_UPSCALE_MODE === "browser" ? "browser" : "server"
const LOOK_MS = 3000
const KEPT_UNASKED = 4e6 // bytes of a network that is fetched before it is needed

/** Where the user wants it; at first what the studio was built with. */
export const place = kept<Place>("upscale.place", BUILT)
/** Why images go to this browser although the user wants the server; null while they do not. */
export const standIn = signal<{ status: number; message: string } | null>(null)
/** The originals of tasks of this visit, by the task's id; reloads forget them. */
export const originals = signal<Record<string, File>>({})

/** Jobs that go to the server where it takes them when their turn comes. */
const meantForServer = new Set<number>()
let busy = false
let timer: ReturnType<typeof setTimeout> | undefined

/** Make ready what a browser needs when the server is away: the list, the runtime, and a small network. */
export async function prepare(): Promise<void> {
  await lookAtKept()
  await loadNetworks()
  const saves = (navigator as { connection?: { saveData?: boolean } }).connection?.saveData
  const small = offered.value.networks.filter(one => one.bytes <= KEPT_UNASKED).sort((one, other) => one.scale - other.scale)
  if (saves || !small.length) return
  await controlled()
  await keep(small.at(-1)!)
}

const CONTROL_MS = 10_000

/** Wait for the service worker, so that what is fetched now is kept by it; without one go on. */
async function controlled(): Promise<void> {
  const workers = navigator.serviceWorker
  if (!workers || workers.controller) return
  await new Promise<void>(resolve => {
    workers.addEventListener("controllerchange", () => resolve(), { once: true })
    setTimeout(resolve, CONTROL_MS)
  })
}

/**
 * Upscale an image: on the server, or here.
 *
 * @throws Refused where the server does not take the image, and never will
 */
export async function upscale(file: File, fields: Record<string, unknown>): Promise<void> {
  if (place.value === "server") {
    if (await onServer(file, fields)) return
    meantForServer.add(addJob(file, fields).id)
  } else addJob(file, fields)
  void work(standIn.value !== null)
}

/** Whether the server took the image. @throws Refused where there is no use in trying here or later */
async function onServer(file: File, fields: Record<string, unknown>): Promise<boolean> {
  try {
    const task = await submit("upscale", fields, { file })
    originals.value = { ...originals.value, [task.task_id]: file }
    standIn.value = null
    return true
  } catch (error) {
    if (!passes(error) || !possible.value) throw error
    standIn.value = reasonOf(error)
    clearTimeout(timer)
    timer = setTimeout(() => void look(), LOOK_MS)
    return false
  }
}

function reasonOf(error: unknown): { status: number; message: string } {
  return { status: error instanceof Refused ? error.status : 0, message: message(error) }
}

/** Look whether the server is back, or has room. */
async function look(): Promise<void> {
  try {
    const said = (await (await ask("status")).json()) as Status
    if (!said.draining && roomy(said)) standIn.value = null
  } catch (error) {
    standIn.value = passes(error) ? reasonOf(error) : null // else it answers, and will say itself what is wrong
  }
  if (standIn.value) timer = setTimeout(() => void look(), LOOK_MS)
}

/** Whether the queue has room: tasks that run have left it. */
function roomy(said: Status): boolean {
  return said.task_queue_size < said.max_queue_size || said.pending_tasks < said.max_concurrent_tasks
}

/** Work through the jobs, one after the other. */
async function work(tried: boolean): Promise<void> {
  if (busy) return
  busy = true
  try {
    for (let job = next(); job; job = next()) {
      if (tried || !meantForServer.has(job.id) || !(await moved(job))) await run(job, standIn.value?.status === 0)
      tried = false
    }
  } finally {
    busy = false
  }
}

const next = (): Job | undefined => jobs.value.filter(job => job.state === "waiting").at(-1)

/** Whether the server is back and took the job's image. */
async function moved(job: Job): Promise<boolean> {
  try {
    if (!(await onServer(job.file, job.fields))) return false
  } catch {
    return false // the browser may still be able to
  }
  jobs.value = jobs.value.filter(one => one.id !== job.id)
  return true
}
