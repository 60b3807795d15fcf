import { useState } from "preact/hooks"
import { message } from "../lib/api"
import { reuse } from "../lib/create"
import { duration, t, when } from "../lib/i18n"
import { models } from "../lib/models"
import { cancel, filesOf, hide, imagesOf, isLive, pause, previews, requests, urlOf } from "../lib/tasks"
import type { Task } from "../lib/types"
import { viewed } from "../lib/viewer"
import { Problem } from "./controls"
import { Icon, IconButton } from "./icons"
import { save, ServerImage } from "./server_image"

/** The prompt of a task, as far as this browser or its images know it. */
export function promptOf(task: Task): string {
  if (operationOf(task) === "train") return t("operation.train") // its images are samples, each with its own prompt
  const said = requests.value[task.task_id]?.prompt ?? task.results[0]?.details.prompt
  if (typeof said === "string" && said) return said
  return t(`operation.${operationOf(task)}`)
}

/** What a task does: operations may be named by their models. */
export function operationOf(task: Task): "generate" | "edit" | "upscale" | "train" {
  const known = models.value.find(model => model.name === task.model)?.operations[0] ?? task.operation
  return (["edit", "upscale", "train"] as const).find(name => name === known) ?? "generate"
}

export function progressText(task: Task): string {
  if (task.status === "queued" && task.queue_position)
    return t("task.place", { n: task.queue_position, time: duration(task.estimated_time) })
  if (task.status === "processing" && task.total_steps > 1)
    return t("task.step", { step: task.step, total: task.total_steps })
  return t(`task.${task.status}`)
}

/** A bar and a line of text, for a task that has not ended. */
export function Progress({ task }: { task: Task }) {
  return (
    <div class="progress">
      <progress max="100" value={task.progress} aria-label={t("task.progress")} />
      <span>{progressText(task)}</span>
    </div>
  )
}

/** One task: its images, or how far it is. */
export function TaskCard({ task }: { task: Task }) {
  const [error, setError] = useState("")
  const [gone, setGone] = useState(false)
  const images = imagesOf(task)
  const prompt = promptOf(task)
  const reusable = operationOf(task) === "generate" && (requests.value[task.task_id] !== undefined || images.length > 0)
  const run = (work: Promise<void>): void => void work.then(() => setError(""), problem => setError(message(problem)))
  return (
    <article class="task" aria-label={`${t(`task.${task.status}`)}: ${prompt}`}>
      <Pictures task={task} gone={gone} onGone={() => setGone(true)} prompt={prompt} />
      <div class="task-body">
        <p class="task-prompt" title={prompt}>{prompt}</p>
        {isLive(task) ? <Progress task={task} /> : null}
        {task.error && task.status === "failed" ? <Problem text={task.error.message} /> : null}
        {error ? <Problem text={error} /> : null}
        {filesOf(task).map(result => (
          <button
            key={result.name}
            type="button"
            class="file"
            title={result.filename ?? result.name}
            onClick={() => run(save(urlOf(result, task), result.filename ?? result.name))}
          >
            <Icon name="download" /> <span>{result.filename ?? result.name}</span>
          </button>
        ))}
        <div class="task-foot">
          <span class="quiet">{footOf(task)}</span>
          {reusable ? <IconButton icon="reuse" label={t("task.reuse")} onClick={() => reuse(task)} /> : null}
          {task.operation === "train" && task.status === "paused" ? (
            <IconButton icon="play" label={t("task.resume")} onClick={() => run(pause(task.task_id, "resume"))} />
          ) : null}
          {task.operation === "train" && task.status === "processing" ? (
            <IconButton icon="pause" label={t("task.pause")} onClick={() => run(pause(task.task_id, "pause"))} />
          ) : null}
          {isLive(task) ? (
            <IconButton icon="stop" label={t("cancel")} onClick={() => run(cancel(task.task_id))} />
          ) : (
            <IconButton icon="close" label={t("task.hide")} onClick={() => hide(task.task_id)} />
          )}
        </div>
      </div>
    </article>
  )
}

function footOf(task: Task): string {
  const parts = [when(task.created_at)]
  if (task.status === "completed" && task.processing_time !== null) parts.push(duration(task.processing_time))
  return parts.join(" · ")
}

function Pictures(props: { task: Task; prompt: string; gone: boolean; onGone: () => void }) {
  const { task } = props
  const images = imagesOf(task)
  if (images.length && !props.gone)
    return (
      <div class="pictures" style={{ "--columns": Math.ceil(Math.sqrt(images.length)) }}>
        {images.map((result, index) => (
          <button
            key={result.name}
            type="button"
            aria-label={t("task.open", { n: index + 1, prompt: props.prompt })}
            onClick={() => (viewed.value = { id: task.task_id, index })}
          >
            <ServerImage path={urlOf(result, task)} alt="" onGone={props.onGone} />
          </button>
        ))}
      </div>
    )
  if (props.gone) return <div class="pictures none">{t("task.gone")}</div>
  if (!isLive(task)) return <div class="pictures none">{t(`task.${task.status}`)}</div>
  const preview = previews.value[task.task_id]
  return (
    <div class={`pictures ${preview ? "preview" : "none"}`}>
      {preview ? <img src={preview} alt={t("task.preview")} /> : t(`task.${task.status}`)}
    </div>
  )
}
