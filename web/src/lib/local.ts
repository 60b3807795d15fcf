/** Upscaling in this browser: which networks there are, and the images that are upscaled here. */

import { computed, signal } from "@preact/signals"
import { inWorker } from "../upscaler/client"
import type { EngineName } from "../upscaler/engine"
import { forgetOthers, keptOf, type Network } from "../upscaler/network"
import type { Format } from "../upscaler/picture"
import { json, key, message } from "./api"
import { t } from "./i18n"
import { kept } from "./stored"

interface Networks {
  default_model: string
  tile_pad: number
  max_pixels: number
  max_output_pixels: number
  networks: Network[]
}

export interface Job {
  id: number
  file: File
  fields: Record<string, unknown>
  state: "waiting" | "running" | "completed" | "failed" | "cancelled"
  /** What runs, and instead of what. */
  network: string
  text: string
  done: number
  total: number
  error?: string
  result?: Blob
}

const NONE: Networks = { default_model: "", tile_pad: 10, max_pixels: 0, max_output_pixels: 0, networks: [] }
const QUALITY = 90 // the server's default

/** What the service said last; it is needed when the service is away. */
export const offered = kept<Networks>("networks", NONE)
/** Names of the networks whose files are in this browser. */
export const keptNetworks = signal<string[]>([])
/** The network that is fetched to be kept, with the share that has come; null while none is. */
export const fetching = signal<{ name: string; percent: number } | null>(null)
export const jobs = signal<Job[]>([])
export const possible = computed(() => offered.value.networks.length > 0)

const stops = new Map<number, AbortController>()
let last = 0

/** Ask which networks there are. @throws Refused */
export async function loadNetworks(): Promise<void> {
  offered.value = await json<Networks>("upscale/networks")
  await forgetOthers(offered.value.networks)
  await lookAtKept()
}

export async function lookAtKept(): Promise<void> {
  const found = await keptOf(offered.value.networks).catch(() => [])
  const visit = keptNetworks.value.filter(name => offered.value.networks.some(one => one.name === name))
  keptNetworks.value = [...new Set([...visit, ...found])]
}

/** The network that a request means, as the server chooses it: the smallest one that reaches the scale. */
export function networkFor(fields: Record<string, unknown>): Network | undefined {
  const name = fields.model || offered.value.default_model
  const { networks } = offered.value
  const named = networks.filter(one => one.name === name)
  const found = named.length ? named : networks.filter(one => one.family === name).sort((one, other) => one.scale - other.scale)
  const { scale } = fields
  return found.find(one => typeof scale === "number" && one.scale >= scale) ?? found.at(-1)
}

const filesOf = (network: Network) => ({ network, url: new URL(network.url, document.baseURI).href, key: key.value })

/** Fetch the runtime and a network, so that they are here when the service is away. @throws Error */
export async function keep(network: Network): Promise<void> {
  if (fetching.value || keptNetworks.value.includes(network.name)) return
  fetching.value = { name: network.name, percent: 0 }
  try {
    await inWorker(
      { kind: "keep", ...filesOf(network) },
      said => {
        if (said.kind === "fetching") fetching.value = { name: network.name, percent: (100 * said.done) / said.total }
      },
      new AbortController().signal,
    )
    keptNetworks.value = [...keptNetworks.value, network.name]
  } finally {
    fetching.value = null
  }
}

function change(id: number, values: Partial<Job>): void {
  jobs.value = jobs.value.map(job => (job.id === id ? { ...job, ...values } : job))
}

/** Add an image to those that wait for this browser. */
export function addJob(file: File, fields: Record<string, unknown>): Job {
  const job: Job = { id: ++last, file, fields, state: "waiting", network: "", text: t("task.queued"), done: 0, total: 0 }
  jobs.value = [job, ...jobs.value]
  return job
}

export function removeJob(id: number): void {
  stops.get(id)?.abort()
  jobs.value = jobs.value.filter(job => job.id !== id)
}

/** Stop a job: the worker ends at once. */
export function stop(id: number): void {
  stops.get(id)?.abort()
  change(id, { state: "cancelled", text: t("task.cancelled") })
}

/**
 * Upscale the image of a job here. What goes wrong is said in the job.
 *
 * @param away whether the service cannot be asked: then a kept network runs where the one that is meant is not kept
 */
export async function run(job: Job, away: boolean): Promise<void> {
  const meant = networkFor(job.fields)
  const there = (one: Network | undefined): boolean => one !== undefined && keptNetworks.value.includes(one.name)
  const other = offered.value.networks.filter(there).sort((one, two) => one.scale - two.scale).at(-1)
  const network = away && !there(meant) ? (other ?? meant) : meant
  if (!network) return change(job.id, { state: "failed", text: t("task.failed"), error: t("upscale.browser.none") })
  const controller = new AbortController()
  stops.set(job.id, controller)
  const named = network === meant ? network.name : t("upscale.instead", { name: network.name, meant: meant?.name ?? "" })
  change(job.id, { state: "running", network: named, text: t("upscale.starting") })
  try {
    const made = await inWorker(workOf(job, network), said => {
      if (said.kind === "fetching") change(job.id, { ...said, text: t("upscale.fetching", { name: network.name }) })
      if (said.kind === "tiles") change(job.id, { ...said, text: t("upscale.tile", { done: said.done, total: said.total }) })
    }, controller.signal)
    if (made) change(job.id, { state: "completed", text: madeText(named, made.engine), result: made.blob })
    void lookAtKept()
  } catch (error) {
    if (!controller.signal.aborted) change(job.id, { state: "failed", text: t("task.failed"), error: message(error) })
  } finally {
    stops.delete(job.id)
  }
}

function madeText(network: string, engine: EngineName): string {
  return t("upscale.made", { network, engine: engine === "webgpu" ? "WebGPU" : "CPU" })
}

function workOf({ file, fields }: Job, network: Network) {
  return {
    kind: "upscale" as const,
    ...filesOf(network),
    image: file as Blob,
    factor: typeof fields.scale === "number" ? fields.scale : network.scale,
    format: (fields.format || "png") as Format,
    quality: QUALITY,
    pad: offered.value.tile_pad,
    maxPixels: offered.value.max_pixels,
    maxOutputPixels: offered.value.max_output_pixels,
  }
}
