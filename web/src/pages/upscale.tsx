import { signal } from "@preact/signals"
import { useState } from "preact/hooks"
import { Compare } from "../components/compare"
import { FieldControl, Problem } from "../components/controls"
import { Icon } from "../components/icons"
import { DropZone, Thumbnail } from "../components/image_input"
import { save } from "../components/server_image"
import { Progress, TaskCard, operationOf } from "../components/task_card"
import { message } from "../lib/api"
import { typed } from "../lib/create"
import { t } from "../lib/i18n"
import { modelsKnown, usualModel } from "../lib/models"
import { SendToEdit } from "../components/send_to_edit"
import { addToUpscale, upscaleFiles } from "../lib/sending"
import { kept } from "../lib/stored"
import { cancel, imagesOf, isLive, submit, urlOf, visible } from "../lib/tasks"
import type { Field, Task } from "../lib/types"

const values = kept<Record<string, string>>("upscale", { scale: "2" })
/** The originals of tasks of this visit, by the task's id; reloads forget them. */
const originals = signal<Record<string, File>>({})
const FIELDS = ["model", "scale", "format"]

export function UpscalePage() {
  const model = usualModel("upscale")
  return (
    <div class="two-columns">
      <section aria-labelledby="upscale-title">
        <h1 id="upscale-title">{t("upscale.title")}</h1>
        {model?.fields ? <Form fields={model.fields} /> : <p>{t(modelsKnown.value ? "upscale.none" : "loading")}</p>}
      </section>
      <Results />
    </div>
  )
}

function Form({ fields }: { fields: Record<string, Field> }) {
  const [problems, setProblems] = useState<string[]>([])
  const [sending, setSending] = useState(false)
  const files = upscaleFiles.value
  const formats = (fields.format?.enum ?? []).filter(one => one !== "raw")
  const shown = { ...fields, format: { ...fields.format!, enum: formats } }
  const send = async (event: Event): Promise<void> => {
    event.preventDefault()
    setSending(true)
    const failed: string[] = []
    for (const file of files) {
      try {
        const task = await submit("upscale", typed(values.value, fields), { file })
        originals.value = { ...originals.value, [task.task_id]: file }
        upscaleFiles.value = upscaleFiles.value.filter(one => one !== file)
      } catch (error) {
        failed.push(`${file.name}: ${message(error)}`)
      }
    }
    setProblems(failed)
    setSending(false)
  }
  return (
    <form class="stack" onSubmit={event => void send(event)}>
      <DropZone label={t("image.chooseSeveral")} several onFiles={addToUpscale} />
      {files.length ? (
        <div class="row">
          {files.map((file, index) => (
            <Thumbnail
              key={`${index} ${file.name}`}
              blob={file}
              name={file.name}
              onRemove={() => (upscaleFiles.value = files.filter(one => one !== file))}
            />
          ))}
        </div>
      ) : null}
      <div class="grid">
        {FIELDS.map(name => (
          <FieldControl
            key={name}
            name={name}
            field={shown[name as keyof typeof shown]!}
            label={t(`upscale.${name as "model" | "scale" | "format"}`)}
            value={values.value[name] ?? ""}
            onChange={text => (values.value = { ...values.value, [name]: text })}
          />
        ))}
      </div>
      <div class="submit-row">
        <button class="primary" disabled={sending || !files.length}>{t(sending ? "create.sending" : "upscale.go")}</button>
        {files.length ? <span class="quiet">{t("upscale.added", { n: files.length })}</span> : null}
      </div>
      {problems.map(text => <Problem key={text} text={text} />)}
      <p class="quiet">{t("upscale.mode")}</p>
    </form>
  )
}

function Results() {
  const shown = visible.value.filter(task => operationOf(task) === "upscale").slice(0, 20)
  return (
    <section aria-labelledby="results-title">
      <h2 id="results-title">{t("create.recent")}</h2>
      {shown.length ? null : <p class="empty">{t("upscale.empty")}</p>}
      {shown.map(task => <Upscaled key={task.task_id} task={task} />)}
    </section>
  )
}

function Upscaled({ task }: { task: Task }) {
  const original = originals.value[task.task_id]
  const [result] = imagesOf(task)
  if (!original) return <div class="tasks large"><TaskCard task={task} /></div>
  return (
    <article class="panel" aria-label={original.name}>
      <div class="panel-head">
        <h3>{original.name}</h3>
        {result ? (
          <button type="button" onClick={() => void save(urlOf(result, task), `${original.name.replace(/\.\w+$/, "")}-${result.name}`)}>
            <Icon name="download" /> {t("download")}
          </button>
        ) : null}
        {result ? <SendToEdit path={urlOf(result, task)} name={result.name} /> : null}
        {isLive(task) ? <button type="button" onClick={() => void cancel(task.task_id)}>{t("cancel")}</button> : null}
      </div>
      {isLive(task) ? <Progress task={task} /> : null}
      {task.error ? <Problem text={task.error.message} /> : null}
      {result ? <Compare before={original} after={urlOf(result, task)} alt={original.name} /> : null}
    </article>
  )
}
