import { useEffect, useState } from "preact/hooks"
import { FieldControl, Problem, Section } from "../components/controls"
import { IconButton } from "../components/icons"
import { TaskCard, operationOf } from "../components/task_card"
import { Refused, message } from "../lib/api"
import { controlImage, drawSeed, generate, initImage, mask, model, notice, seedLocked, set, sizesOf, values, chosenLoras } from "../lib/create"
import { fieldName, t } from "../lib/i18n"
import { furtherFields, modelsFor, modelsKnown, titleOf } from "../lib/models"
import { visible } from "../lib/tasks"
import type { Model } from "../lib/types"
import { ControlFields, EnlargeFields, StartFields } from "./create_images"
import { LoraFields } from "./create_loras"

const SHOWN_TASKS = 12
const OWN = new Set([
  ...["prompt", "negative_prompt", "model", "steps", "guidance_scale", "scheduler", "seed", "randomize_seed", "width"],
  ...["height", "size", "num_images", "strength", "control_type", "control_preprocess", "low_threshold", "high_threshold"],
  ...["controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end", "preview_every"],
])

export function CreatePage() {
  const chosen = model.value
  return (
    <div class="two-columns">
      <section aria-labelledby="create-title">
        <h1 id="create-title">{t("create.title")}</h1>
        {chosen ? <Form chosen={chosen} /> : <p>{t(modelsKnown.value ? "create.none" : "loading")}</p>}
      </section>
      <Recent />
    </div>
  )
}

function Recent() {
  const shown = visible.value.filter(task => operationOf(task) === "generate").slice(0, SHOWN_TASKS)
  return (
    <section aria-labelledby="recent-title">
      <h2 id="recent-title">{t("create.recent")}</h2>
      {shown.length ? (
        <div class="tasks large">{shown.map(task => <TaskCard key={task.task_id} task={task} />)}</div>
      ) : (
        <p class="empty">{t("create.empty")}</p>
      )}
    </section>
  )
}

function Form({ chosen }: { chosen: Model }) {
  const [problem, setProblem] = useState("")
  const [sending, setSending] = useState(false)
  const send = async (event: Event): Promise<void> => {
    event.preventDefault()
    if (sending) return
    setSending(true)
    setProblem("")
    notice.value = ""
    try {
      await generate()
    } catch (error) {
      const param = error instanceof Refused ? error.param : null
      setProblem(param ? t("error.field", { field: fieldName(param), message: message(error) }) : message(error))
    } finally {
      setSending(false)
    }
  }
  return (
    <form class="stack" onSubmit={event => void send(event)} onKeyDown={submitByKey}>
      <Prompts chosen={chosen} />
      <div class="submit-row">
        <button class="primary" disabled={sending}>{t(sending ? "create.sending" : "create.go")}</button>
        <kbd>{t("create.keys")}</kbd>
        <button type="button" class="plain" onClick={reset}>{t("create.reset")}</button>
      </div>
      {problem ? <Problem text={problem} /> : null}
      <p role="status" class={notice.value ? "notice" : "visually-hidden"}>{notice.value}</p>
      <Main chosen={chosen} />
      <LoraFields chosen={chosen} />
      <StartFields chosen={chosen} />
      <ControlFields chosen={chosen} />
      <Section title={t("create.more")}>
        <div class="grid">
          {furtherFields(chosen, OWN).map(([name, field]) => (
            <FieldControl key={name} name={name} field={field} value={values.value[name] ?? ""} onChange={text => set(name, text)} />
          ))}
        </div>
      </Section>
    </form>
  )
}

function submitByKey(event: KeyboardEvent & { currentTarget: HTMLFormElement }): void {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return
  event.preventDefault()
  event.currentTarget.requestSubmit()
}

function reset(): void {
  values.value = { model: values.value.model ?? "", prompt: values.value.prompt ?? "" }
  chosenLoras.value = []
  seedLocked.value = false
  initImage.value = mask.value = controlImage.value = null
}

function Prompts({ chosen }: { chosen: Model }) {
  const fields = chosen.fields ?? {}
  return (
    <>
      <label class="field">
        <span>{t("create.prompt")}</span>
        <textarea
          name="prompt"
          rows={4}
          required
          maxLength={fields.prompt?.maxLength}
          placeholder={t("create.prompt.hint")}
          value={values.value.prompt ?? ""}
          onInput={event => set("prompt", event.currentTarget.value)}
        />
      </label>
      <label class="field">
        <span>{t("create.negative")}</span>
        <textarea
          name="negative_prompt"
          rows={2}
          maxLength={fields.negative_prompt?.maxLength}
          placeholder={t("create.negative.hint")}
          value={values.value.negative_prompt ?? ""}
          onInput={event => set("negative_prompt", event.currentTarget.value)}
        />
      </label>
    </>
  )
}

function Main({ chosen }: { chosen: Model }) {
  const fields = chosen.fields ?? {}
  const control = (name: string, label?: string) => {
    const field = fields[name]
    return field ? (
      <FieldControl name={name} field={field} label={label} value={values.value[name] ?? ""} onChange={text => set(name, text)} />
    ) : null
  }
  return (
    <>
      <label class="field">
        <span>{t("create.model")}</span>
        <select name="model" value={chosen.name} onChange={event => set("model", event.currentTarget.value)}>
          {modelsFor("generate").map(one => <option key={one.name} value={one.name}>{titleOf(one)}</option>)}
        </select>
      </label>
      <div class="grid">
        <SizeField key={chosen.name} chosen={chosen} />
        {control("num_images", t("create.count"))}
        {control("steps")}
        {control("guidance_scale")}
        {control("scheduler")}
        <SeedField chosen={chosen} />
        <EnlargeFields />
      </div>
    </>
  )
}

function SizeField({ chosen }: { chosen: Model }) {
  const { width = "", height = "" } = values.value
  const sizes = sizesOf(chosen).map(([x, y]) => `${x}x${y}`)
  const current = width && height ? `${width}x${height}` : ""
  const unknown = (width !== "" || height !== "") && !sizes.includes(current)
  const [own, setOwn] = useState(unknown)
  useEffect(() => {
    if (unknown) setOwn(true)
  }, [unknown])
  const choose = (text: string): void => {
    setOwn(text === "own")
    if (text === "own") return
    const [x = "", y = ""] = text.split("x")
    values.value = { ...values.value, width: x, height: y }
  }
  return (
    <>
      <label class="field">
        <span>{t("create.size")}</span>
        <select name="size" value={own ? "own" : current} onChange={event => choose(event.currentTarget.value)}>
          <option value="">{t("create.size.auto")}</option>
          {sizes.map(name => <option key={name} value={name}>{name.replace("x", " × ")}</option>)}
          <option value="own">{t("create.size.own")}</option>
        </select>
      </label>
      {own
        ? (["width", "height"] as const).map(name => (
            <FieldControl
              key={name}
              name={name}
              field={chosen.fields![name]!}
              value={values.value[name] ?? ""}
              onChange={text => set(name, text)}
            />
          ))
        : null}
    </>
  )
}

function SeedField({ chosen }: { chosen: Model }) {
  const field = chosen.fields?.seed
  return (
    <div class="field">
      <label for="seed">{t("create.seed")}</label>
      <div class="with-buttons">
        <input
          id="seed"
          name="seed"
          inputMode="numeric"
          pattern="[0-9]*"
          title={field?.description}
          value={values.value.seed ?? ""}
          onInput={event => {
            set("seed", event.currentTarget.value)
            seedLocked.value = event.currentTarget.value !== ""
          }}
        />
        <IconButton icon="dice" label={t("create.seed.dice")} onClick={drawSeed} />
        <IconButton
          icon={seedLocked.value ? "lock" : "unlock"}
          label={t("create.seed.lock")}
          pressed={seedLocked.value}
          onClick={() => (seedLocked.value = !seedLocked.value)}
        />
      </div>
    </div>
  )
}
