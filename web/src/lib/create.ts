import { computed, signal } from "@preact/signals"
import { json } from "./api"
import { modelsFor, typeOf, usualModel } from "./models"
import { go } from "./route"
import { kept } from "./stored"
import { requests, submit } from "./tasks"
import type { Field, Model, Task } from "./types"

export interface ChosenLora {
  name?: string
  session_id?: string
  digest?: string
  weight: number
}

const SEEDS = 2 ** 32

/** What the page's fields hold, as text; "" and absent mean the model's default. */
export const values = kept<Record<string, string>>("create", {})
export const chosenLoras = kept<ChosenLora[]>("create.loras", [])
export const seedLocked = kept("create.seedLocked", false)
export const initImage = signal<Blob | null>(null)
export const mask = signal<Blob | null>(null)
export const controlImage = signal<Blob | null>(null)
/** The control images of tasks of this visit, by the task's id. */
export const controlImages = signal<Record<string, Blob>>({})
/** What happened at the last drop of an image. */
export const notice = signal("")

export const model = computed<Model | undefined>(
  () => modelsFor("generate").find(one => one.name === values.value.model) ?? usualModel("generate"),
)

export function set(name: string, value: string): void {
  values.value = { ...values.value, [name]: value }
}

export function drawSeed(): void {
  set("seed", String(crypto.getRandomValues(new Uint32Array(1))[0]! % SEEDS))
}

/** Texts of inputs as the JSON that fields take; empty ones are left out. */
export function typed(texts: Record<string, string>, fields: Record<string, Field>): Record<string, unknown> {
  const made: Record<string, unknown> = {}
  for (const [name, text] of Object.entries(texts)) {
    const field = fields[name]
    if (field === undefined || text === "") continue
    const kind = typeOf(field)
    made[name] = kind === "integer" || kind === "number" ? numberOf(text) : kind === "boolean" ? text === "true" : text
  }
  return made
}

/** Seeds may have more digits than a number of JavaScript: those are sent as text, which the service reads, too. */
function numberOf(text: string): number | string {
  return Number.isSafeInteger(Number(text)) || text.includes(".") ? Number(text) : text
}

const ENLARGE: Record<string, Field> = { enlarge: { type: "number" } }
const MOST_PREVIEWS = 8

/** Begin a task with what the page says. @throws Refused */
export async function generate(): Promise<Task> {
  const chosen = model.value!
  const fields = { ...chosen.fields, ...ENLARGE }
  if (!seedLocked.value || !values.value.seed) drawSeed()
  const sent = typed(values.value, fields)
  const steps = Number(sent.steps ?? chosen.fields?.steps?.default ?? 20)
  const files: Record<string, Blob> = {}
  if (fields.init_image && initImage.value) {
    files.init_image = initImage.value
    if (mask.value) files.mask = mask.value
  }
  const control = chosen.controls?.length ? controlImage.value : null
  if (control) files.control_image = control
  const list = fields.loras && chosenLoras.value.length ? { loras: chosenLoras.value } : {}
  const shown = fields.preview_every ? { preview_every: Math.ceil(steps / MOST_PREVIEWS) } : {}
  const kept = control ? { keep_control_map: true } : {}
  const task = await submit("generate", { ...sent, ...list, ...shown, ...kept, model: chosen.name }, files)
  if (control) controlImages.value = { ...controlImages.value, [task.task_id]: control }
  return task
}

/** Fill the page with the fields of a request, or with what an image says of itself. */
export function fill(fields: Record<string, unknown>): void {
  const named = modelsFor("generate").find(
    one => fields.model === one.name || (one.checkpoint && fields.model === one.checkpoint.name),
  )
  const known = (named ?? model.value)?.fields ?? {}
  const texts: Record<string, string> = named ? { model: named.name } : { model: values.value.model ?? "" }
  for (const [name, value] of Object.entries(fields))
    if (name in known && name !== "preview_every" && ["string", "number", "boolean"].includes(typeof value))
      texts[name] = String(value)
  values.value = texts
  seedLocked.value = texts.seed !== undefined
  chosenLoras.value = Array.isArray(fields.loras) ? fields.loras.map(takenLora) : []
}

/** A LoRA of a request. What the page has no control for, as weights that change from step to step, stays as it is. */
function takenLora(said: Record<string, unknown>): ChosenLora {
  return { ...said, weight: typeof said.weight === "number" ? said.weight : 1 }
}

/** Fill the page with the settings of a task's image, and go there. */
export function reuse(task: Task, index = 0): void {
  const details = task.results[index]?.details ?? {}
  const asked = requests.value[task.task_id]
  const seed = details.seed === undefined ? {} : { seed: details.seed }
  fill(asked ? { ...asked, ...seed, num_images: index ? 1 : asked.num_images } : details)
  go("create")
}

/** Fill the page with what a file says of itself, and go there. @throws Refused */
export async function fillFrom(file: Blob): Promise<boolean> {
  const form = new FormData()
  form.append("file", file, "image")
  const said = await json<{ fields: Record<string, unknown> | null; darkroom: Record<string, unknown> | null }>("png-info", form)
  const fields = said.darkroom ?? said.fields
  if (fields === null) return false
  fill(fields)
  go("create")
  return true
}

/** Sizes for a model, in its multiples and at about as many pixels as it was trained at. */
export function sizesOf(chosen: Model): [number, number][] {
  const side = chosen.checkpoint?.side ?? 512
  const unit = chosen.fields?.width?.multipleOf ?? 8
  const most = chosen.limits?.max_pixels ?? Infinity
  const ratios: [number, number][] = [[1, 1], [3, 4], [4, 3], [2, 3], [3, 2], [9, 16], [16, 9]]
  const near = (value: number): number => Math.max(64, Math.round(value / unit) * unit)
  const sizes = ratios.map(([x, y]): [number, number] => {
    const scale = side / Math.sqrt(x * y)
    return [near(x * scale), near(y * scale)]
  })
  sizes.push([near(side * 2), near(side * 2)])
  const names = new Set<string>()
  return sizes.filter(([x, y]) => x * y <= most && !names.has(`${x}x${y}`) && names.add(`${x}x${y}`))
}
