import { computed, signal } from "@preact/signals"
import { json, passes } from "./api"
import { kept } from "./stored"
import type { Field, Lora, Model } from "./types"

/** What the service said last is kept, so that the pages have their fields while it is away. */
export const models = kept<Model[]>("models", [])
export const loras = signal<Lora[]>([])
export const modelsKnown = signal(models.value.length > 0)

const AGAIN_MS = 3000
let asked = false

/** Ask which models there are; again until all that are installed are ready. */
export async function loadModels(): Promise<void> {
  if (asked) return
  asked = true
  try {
    models.value = (await json<{ models: Model[] }>("models")).models
    loras.value = (await json<{ loras: Lora[] }>("loras")).loras
    modelsKnown.value = true
  } catch (error) {
    if (!passes(error)) return
  } finally {
    asked = false
  }
  const all = models.value.filter(model => model.installed)
  if (!all.length || !all.every(model => model.ready)) setTimeout(loadModels, AGAIN_MS)
}

/** The installed models of an operation. */
export function modelsFor(operation: string): Model[] {
  return models.value.filter(model => model.installed && model.operations.includes(operation))
}

/** The model of an operation that requests without a name get. */
export function usualModel(operation: string): Model | undefined {
  const there = modelsFor(operation)
  return there.find(model => model.default_for.includes(operation)) ?? there[0]
}

/** How a model is called in lists: its checkpoint, and the family where that says more. */
export function titleOf(model: Model): string {
  return model.checkpoint ? `${model.title} · ${model.checkpoint.name}` : model.title
}

export const canEdit = computed(() => modelsFor("edit").length > 0)

/** The JSON type of a field, without null. */
export function typeOf(field: Field): string {
  const types = Array.isArray(field.type) ? field.type : [field.type]
  return types.find(type => type !== "null") ?? "string"
}

/** Whether a field is another name of another one, or one half of it. */
function isAlias(field: Field): boolean {
  return /^(Another name of|As) `/.test(field.description ?? "") || field.pattern !== undefined
}

/** The fields of a model that a page has no control of its own for: numbers, switches and choices. */
export function furtherFields(model: Model, known: ReadonlySet<string>): [string, Field][] {
  return Object.entries(model.fields ?? {}).filter(
    ([name, field]) =>
      !known.has(name) &&
      !isAlias(field) &&
      field.contentEncoding === undefined &&
      (["integer", "number", "boolean"].includes(typeOf(field)) || field.enum !== undefined),
  )
}
