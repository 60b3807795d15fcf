import { useState } from "preact/hooks"
import { message } from "../lib/api"
import { controlImages, initImage, mask, reuse } from "../lib/create"
import { fieldName, t } from "../lib/i18n"
import { go } from "../lib/route"
import { send } from "../lib/sending"
import { controlMapOf, imagesOf, tasks, urlOf } from "../lib/tasks"
import type { Result, Task } from "../lib/types"
import { viewed } from "../lib/viewer"
import { Problem } from "./controls"
import { Dialog } from "./dialog"
import { Icon, IconButton } from "./icons"
import { Thumbnail } from "./image_input"
import { fileOf, save, ServerImage } from "./server_image"
import { operationOf, promptOf } from "./task_card"

const LEFT_OUT = ["prompt", "index", "version", "lora_files"]

/** The viewer, while an image is chosen. */
export function Viewer() {
  const shown = viewed.value
  const task = shown && tasks.value.find(one => one.task_id === shown.id)
  const result = task && imagesOf(task)[shown.index]
  return task && result ? <Shown key={task.task_id} task={task} result={result} index={shown.index} /> : null
}

function Shown({ task, result, index }: { task: Task; result: Result; index: number }) {
  const [error, setError] = useState("")
  const close = (): void => void (viewed.value = null)
  const run = (work: Promise<void>): void => void work.then(close, problem => setError(message(problem)))
  const path = urlOf(result, task)
  const several = imagesOf(task).length
  const move = (by: number): void => void (viewed.value = { id: task.task_id, index: (index + by + several) % several })
  const start = async (): Promise<void> => {
    initImage.value = await fileOf(path)
    mask.value = null
    go("create")
  }
  return (
    <Dialog title={promptOf(task)} class="viewer" onClose={close}>
      <div
        class="viewer-body"
        onKeyDown={event => {
          if (event.key === "ArrowLeft") move(-1)
          if (event.key === "ArrowRight") move(1)
        }}
      >
        <div class="viewer-image">
          <ServerImage path={path} alt={promptOf(task)} />
          {several > 1 ? (
            <>
              <IconButton class="previous" icon="left" label={t("viewer.previous")} onClick={() => move(-1)} />
              <IconButton class="next" icon="right" label={t("viewer.next")} onClick={() => move(1)} />
            </>
          ) : null}
        </div>
        <div class="viewer-side">
          <div class="buttons">
            <button type="button" onClick={() => run(save(path, result.filename ?? result.name))}>
              <Icon name="download" /> {t("download")}
            </button>
            {operationOf(task) === "generate" ? (
              <button type="button" onClick={() => { reuse(task, index); close() }}>
                <Icon name="reuse" /> {t("task.reuse")}
              </button>
            ) : null}
            <button type="button" onClick={() => run(start())}>{t("viewer.start")}</button>
            <button type="button" onClick={() => run(send(path, result.name, "upscale"))}>{t("viewer.upscale")}</button>
            <button type="button" onClick={() => run(send(path, result.name, "edit"))}>{t("viewer.edit")}</button>
          </div>
          {error ? <Problem text={error} /> : null}
          <Control task={task} />
          <Settings details={result.details} />
        </div>
      </div>
    </Dialog>
  )
}

/** The image that was followed, and the map that was made of it. */
function Control({ task }: { task: Task }) {
  const map = controlMapOf(task)
  const input = controlImages.value[task.task_id]
  if (!map) return null
  return (
    <div class="row">
      {input ? <Thumbnail blob={input} name={t("image.control")} /> : null}
      <figure class="thumbnail">
        <ServerImage path={urlOf(map, task)} alt={t("viewer.map")} />
      </figure>
    </div>
  )
}

function Settings({ details }: { details: Record<string, unknown> }) {
  const shown = Object.entries(details).filter(([name, value]) => !LEFT_OUT.includes(name) && value !== "" && value !== null)
  return (
    <dl class="settings">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{fieldName(name)}</dt>
          <dd>{typeof value === "object" ? JSON.stringify(value) : String(value)}</dd>
        </div>
      ))}
    </dl>
  )
}
