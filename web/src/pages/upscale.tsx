import { useEffect, useState } from "preact/hooks"
import { Compare } from "../components/compare"
import { FieldControl, Problem } from "../components/controls"
import { Icon, IconButton } from "../components/icons"
import { DropZone, Thumbnail } from "../components/image_input"
import { download, save } from "../components/server_image"
import { Progress, TaskCard, operationOf } from "../components/task_card"
import { message } from "../lib/api"
import { typed } from "../lib/create"
import { t } from "../lib/i18n"
import { fetching, jobs, keep, keptNetworks, networkFor, possible, removeJob, stop, type Job } from "../lib/local"
import { modelsKnown, usualModel } from "../lib/models"
import { SendToEdit } from "../components/send_to_edit"
import { addToUpscale, upscaleFiles } from "../lib/sending"
import { kept } from "../lib/stored"
import { cancel, imagesOf, isLive, urlOf, visible } from "../lib/tasks"
import type { Field, Task } from "../lib/types"
import { originals, place, prepare, standIn, upscale, type Place } from "../lib/upscaling"

const values = kept<Record<string, string>>("upscale", { scale: "2" })
const FIELDS = ["model", "scale", "format"]
const PLACES: Place[] = ["server", "browser"]

export function UpscalePage() {
  const model = usualModel("upscale")
  useEffect(() => void prepare().catch(() => undefined), []) // the service is away: what is kept has to do
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
        await upscale(file, typed(values.value, fields))
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
      <Where fields={typed(values.value, fields)} />
      <div class="submit-row">
        <button class="primary" disabled={sending || !files.length}>{t(sending ? "create.sending" : "upscale.go")}</button>
        {files.length ? <span class="quiet">{t("upscale.added", { n: files.length })}</span> : null}
      </div>
      {problems.map(text => <Problem key={text} text={text} />)}
      <StandIn />
    </form>
  )
}

/** The switch between server and browser, and what the browser has. */
function Where({ fields }: { fields: Record<string, unknown> }) {
  const [problem, setProblem] = useState("")
  const network = networkFor(fields)
  const here = network !== undefined && keptNetworks.value.includes(network.name)
  const coming = fetching.value
  return (
    <div class="stack">
      <div class="segments" role="group" aria-label={t("upscale.where")}>
        {PLACES.map(one => (
          <button
            key={one}
            type="button"
            aria-pressed={place.value === one}
            disabled={one === "browser" && !possible.value}
            onClick={() => (place.value = one)}
          >
            {t(`upscale.where.${one}`)}
          </button>
        ))}
      </div>
      <p class="quiet">{t(possible.value ? `upscale.mode.${place.value}` : "upscale.browser.none")}</p>
      {network && coming ? (
        <p class="quiet">{t("upscale.keeping", { name: coming.name, percent: Math.round(coming.percent) })}</p>
      ) : null}
      {network && !coming && here ? <p class="quiet">{t("upscale.kept", { name: network.name })}</p> : null}
      {network && !coming && !here ? (
        <button
          type="button"
          onClick={() => void keep(network).then(() => setProblem(""), error => setProblem(message(error)))}
        >
          {t("upscale.keep", { name: network.name, size: (network.bytes / 1e6).toFixed(0) })}
        </button>
      ) : null}
      {problem ? <Problem text={problem} /> : null}
    </div>
  )
}

/** Why the browser does the work of the server. */
function StandIn() {
  const why = standIn.value
  const text = !why ? "" : why.status === 0 ? t("upscale.away") : t("upscale.full", { message: why.message })
  return <p role="status" class={text ? "notice" : "visually-hidden"}>{text}</p>
}

function Results() {
  const shown = visible.value.filter(task => operationOf(task) === "upscale").slice(0, 20)
  return (
    <section aria-labelledby="results-title">
      <h2 id="results-title">{t("create.recent")}</h2>
      {shown.length || jobs.value.length ? null : <p class="empty">{t("upscale.empty")}</p>}
      {jobs.value.map(job => <Local key={job.id} job={job} />)}
      {shown.map(task => <Upscaled key={task.task_id} task={task} />)}
    </section>
  )
}

const resultName = (file: File, ending: string): string => `${file.name.replace(/\.\w+$/, "")}-${ending}`

/** An image that is upscaled in this browser. */
function Local({ job }: { job: Job }) {
  const { file, result } = job
  const live = job.state === "waiting" || job.state === "running"
  return (
    <article class="panel" aria-label={file.name}>
      <div class="panel-head">
        <h3>{file.name}</h3>
        {result ? (
          <button type="button" onClick={() => download(result, resultName(file, `upscaled.${result.type.split("/")[1]}`))}>
            <Icon name="download" /> {t("download")}
          </button>
        ) : null}
        {live ? (
          <button type="button" onClick={() => stop(job.id)}>{t("cancel")}</button>
        ) : (
          <IconButton icon="close" label={t("task.hide")} onClick={() => removeJob(job.id)} />
        )}
      </div>
      {live ? (
        <div class="progress">
          <progress max={Math.max(1, job.total)} value={job.done} aria-label={t("task.progress")} />
          <span>{[job.network, job.text].filter(Boolean).join(" · ")}</span>
        </div>
      ) : (
        <p class="quiet">{job.text}</p>
      )}
      {job.error ? <Problem text={job.error} /> : null}
      {result ? <Compare before={file} after={result} alt={file.name} /> : null}
    </article>
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
          <button type="button" onClick={() => void save(urlOf(result, task), resultName(original, result.name))}>
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
