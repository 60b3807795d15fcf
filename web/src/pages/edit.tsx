import { signal } from "@preact/signals"
import { useEffect, useRef, useState } from "preact/hooks"
import { Compare } from "../components/compare"
import { FieldControl, Problem, Section } from "../components/controls"
import { DropZone, ImageInput, Thumbnail } from "../components/image_input"
import { MaskEditor } from "../components/mask_editor"
import { Progress, TaskCard, operationOf, promptOf } from "../components/task_card"
import { json, message } from "../lib/api"
import { typed } from "../lib/create"
import { MODES } from "../lib/en"
import { language, t } from "../lib/i18n"
import { canEdit, furtherFields, modelsKnown, usualModel } from "../lib/models"
import { addToEdit, editImages } from "../lib/sending"
import { cancel, imagesOf, isLive, submit, urlOf, visible } from "../lib/tasks"
import type { EditMode, Task } from "../lib/types"

const modes = signal<EditMode[]>([])
const mode = signal<EditMode | null>(null)
const values = signal<Record<string, string>>({})
const control = signal<Blob | null>(null)
const mask = signal<Blob | null>(null)
/** The first images of tasks of this visit, by the task's id. */
const originals = signal<Record<string, Blob>>({})

const GROUPS: [1 | 2 | 3 | 4, (one: EditMode) => boolean][] = [
  [1, one => one.requires_multiple_images],
  [2, one => !one.requires_multiple_images && !one.requires_text_params && !one.requires_controlnet],
  [3, one => one.requires_text_params],
  [4, one => one.requires_controlnet],
]
const TEXTS = ["old_text", "new_text", "position", "font_type", "color"] as const
const OWN = new Set(["prompt", "model", "mode", "randomize_seed", "preview_every", "size"])
const PREVIEWS_EVERY = 5

export function EditPage() {
  useEffect(() => {
    if (!modes.value.length) json<EditMode[]>("edit-modes").then(found => (modes.value = found), () => undefined)
  }, [])
  return (
    <div class="two-columns">
      <section aria-labelledby="edit-title">
        <h1 id="edit-title">{t("edit.title")}</h1>
        {modelsKnown.value && !canEdit.value ? <NotInstalled /> : null}
        <Form />
      </section>
      <Results />
    </div>
  )
}

function NotInstalled() {
  return <p class="notice">{t("edit.none")}</p>
}

function nameOf(one: EditMode): string {
  return language.value === "zh" ? one.name : (MODES[one.mode] ?? one.name)
}

function needsOf(one: EditMode): string {
  const images =
    one.max_images > 1 ? t("edit.needs.images", { min: one.min_images, max: one.max_images }) : t("edit.needs.image")
  return [images, one.requires_controlnet && t("edit.needs.control"), one.requires_text_params && t("edit.needs.text")]
    .filter(Boolean)
    .join(" + ")
}

function Modes() {
  const card = (one: EditMode | null, title: string, about: string, needs: string) => (
    <label class="mode" key={title}>
      <input type="radio" name="mode" checked={mode.value?.mode === one?.mode} onChange={() => (mode.value = one)} />
      <span class="mode-title">{title}</span>
      {about ? <span class="mode-about" lang={one ? "zh-Hant" : undefined}>{about}</span> : null}
      {needs ? <span class="mode-needs">{needs}</span> : null}
    </label>
  )
  return (
    <fieldset class="modes">
      <legend>{t("edit.mode")}</legend>
      <div class="mode-list">{card(null, t("edit.mode.free"), t("edit.mode.free.explain"), "")}</div>
      {GROUPS.map(([number, belongs]) => (
        <div key={number} role="group" aria-label={t(`edit.group.${number}`)}>
          <p class="mode-group">{t(`edit.group.${number}`)}</p>
          <div class="mode-list">
            {modes.value.filter(belongs).map(one =>
              card(one, nameOf(one), language.value === "zh" ? one.description : one.name, needsOf(one)),
            )}
          </div>
        </div>
      ))}
    </fieldset>
  )
}

async function send(): Promise<void> {
  const model = usualModel("edit")!
  const chosen = mode.value
  const fields = model.fields ?? {}
  const texts = Object.fromEntries(TEXTS.map(name => [name, values.value[`text.${name}`] ?? ""]).filter(([, text]) => text))
  const sent: Record<string, unknown> = { ...typed(values.value, fields), model: model.name, preview_every: PREVIEWS_EVERY }
  if (chosen) sent.mode = chosen.mode
  if (chosen?.requires_text_params) sent.text_params_json = texts
  const files: Record<string, Blob | Blob[]> = { images: editImages.value }
  if (chosen?.requires_controlnet && control.value) files.controlnet_image = control.value
  if (mask.value) files.mask = mask.value
  const task = await submit("edit", sent, files)
  originals.value = { ...originals.value, [task.task_id]: editImages.value[0]! }
}

function Images() {
  const [paints, setPaints] = useState(false)
  const images = editImages.value
  const first = images[0]
  const remove = (blob: Blob): void => {
    editImages.value = images.filter(one => one !== blob)
    if (blob === first) mask.value = null
  }
  return (
    <div class="stack" role="group" aria-label={t("edit.images")}>
      <DropZone label={t("image.chooseSeveral")} several onFiles={addToEdit} />
      <div class="row">
        {images.map((blob, index) => (
          <Thumbnail key={index} blob={blob} name={t("image.number", { n: index + 1 })} onRemove={() => remove(blob)} />
        ))}
        {mask.value ? <Thumbnail blob={mask.value} name={t("create.mask")} onRemove={() => (mask.value = null)} /> : null}
        {first ? <button type="button" onClick={() => setPaints(true)}>{t("mask.paint")}</button> : null}
      </div>
      {paints && first ? (
        <MaskEditor
          image={first}
          onClose={() => setPaints(false)}
          onDone={made => {
            mask.value = made
            setPaints(false)
          }}
        />
      ) : null}
    </div>
  )
}

function Form() {
  const [problem, setProblem] = useState("")
  const [sending, setSending] = useState(false)
  const model = usualModel("edit")
  const chosen = mode.value
  const prompt = useRef<HTMLTextAreaElement>(null)
  useEffect(() => {
    if (editImages.value.length && !values.value.prompt) prompt.current?.focus() // another page has sent an image
  }, [])
  const set = (name: string, text: string): void => void (values.value = { ...values.value, [name]: text })
  const submitted = async (event: Event): Promise<void> => {
    event.preventDefault()
    setSending(true)
    await send().then(() => setProblem(""), error => setProblem(message(error)))
    setSending(false)
  }
  return (
    <form class="stack" onSubmit={event => void submitted(event)}>
      <Images />
      <label class="field">
        <span>{t("edit.prompt")}</span>
        <textarea
          ref={prompt}
          name="prompt"
          rows={3}
          required
          value={values.value.prompt ?? ""}
          onInput={event => set("prompt", event.currentTarget.value)}
        />
      </label>
      <div class="submit-row">
        <button class="primary" disabled={sending || !model || !editImages.value.length}>
          {t(sending ? "create.sending" : "edit.go")}
        </button>
      </div>
      {problem ? <Problem text={problem} /> : null}
      {chosen?.requires_controlnet ? (
        <ImageInput label={t("image.control")} value={control.value} onChange={blob => (control.value = blob)} />
      ) : null}
      {chosen?.requires_text_params ? (
        <fieldset class="grid">
          <legend>{t("edit.text")}</legend>
          {TEXTS.map(name => (
            <label class="field" key={name}>
              <span>{t(`edit.${name}`)}</span>
              <input value={values.value[`text.${name}`] ?? ""} onInput={event => set(`text.${name}`, event.currentTarget.value)} />
            </label>
          ))}
        </fieldset>
      ) : null}
      <Modes />
      {model ? (
        <Section title={t("create.more")}>
          <div class="grid">
            {furtherFields(model, OWN).map(([name, field]) => (
              <FieldControl key={name} name={name} field={field} value={values.value[name] ?? ""} onChange={text => set(name, text)} />
            ))}
          </div>
        </Section>
      ) : null}
    </form>
  )
}

function Results() {
  const shown = visible.value.filter(task => operationOf(task) === "edit").slice(0, 20)
  return (
    <section aria-labelledby="results-title">
      <h2 id="results-title">{t("create.recent")}</h2>
      {shown.length ? null : <p class="empty">{t("edit.empty")}</p>}
      {shown.map(task => <Edited key={task.task_id} task={task} />)}
    </section>
  )
}

function Edited({ task }: { task: Task }) {
  const original = originals.value[task.task_id]
  if (!original) return <div class="tasks large"><TaskCard task={task} /></div>
  return (
    <article class="panel" aria-label={promptOf(task)}>
      <div class="panel-head">
        <h3>{promptOf(task)}</h3>
        {isLive(task) ? <button type="button" onClick={() => void cancel(task.task_id)}>{t("cancel")}</button> : null}
      </div>
      {isLive(task) ? <Progress task={task} /> : null}
      {task.error ? <Problem text={task.error.message} /> : null}
      {imagesOf(task).map(result => (
        <Compare key={result.name} before={original} after={urlOf(result, task)} alt={promptOf(task)} />
      ))}
    </article>
  )
}
