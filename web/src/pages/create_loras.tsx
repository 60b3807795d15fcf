import { useState } from "preact/hooks"
import { Problem, Section, Slider } from "../components/controls"
import { IconButton } from "../components/icons"
import { json, message } from "../lib/api"
import { chosenLoras, type ChosenLora } from "../lib/create"
import { t } from "../lib/i18n"
import { loadModels, loras } from "../lib/models"
import type { Lora, Model } from "../lib/types"

const RANGE = { min: -2, max: 2, step: 0.05 }
const MOST = 8

function nameOf(lora: ChosenLora): string {
  const known = loras.value.find(one => one.digest === lora.digest)
  return lora.name ?? known?.name ?? (lora.session_id ? t("train.session", { id: lora.session_id }) : (lora.digest ?? "").slice(0, 12))
}

/** The LoRAs of the request, with their weights. */
export function LoraFields({ chosen }: { chosen: Model }) {
  const [problem, setProblem] = useState("")
  if (!chosen.fields?.loras) return null
  const list = chosenLoras.value
  const change = (index: number, weight: number): void => {
    chosenLoras.value = list.map((lora, at) => (at === index ? { ...lora, weight } : lora))
  }
  const add = (name: string): void => void (chosenLoras.value = [...list, { name, weight: 1 }])
  const upload = async (file: File | undefined): Promise<void> => {
    if (!file) return
    const form = new FormData()
    form.append("file", file)
    try {
      const stored = await json<Lora>("loras", form)
      setProblem("")
      await loadModels()
      add(stored.name)
    } catch (error) {
      setProblem(message(error))
    }
  }
  const left = loras.value.filter(one => !list.some(lora => nameOf(lora) === one.name))
  return (
    <Section title={t("create.loras")} open={list.length > 0} badge={list.length > 0 && String(list.length)}>
      {list.map((lora, index) => (
        <div class="lora" key={nameOf(lora)}>
          <Slider
            label={t("create.loras.weight", { name: nameOf(lora) })}
            value={lora.weight}
            {...RANGE}
            onChange={weight => change(index, weight)}
          />
          <IconButton
            icon="close"
            label={t("image.remove", { name: nameOf(lora) })}
            onClick={() => (chosenLoras.value = list.filter((_, at) => at !== index))}
          />
        </div>
      ))}
      {left.length && list.length < MOST ? (
        <label class="field">
          <span>{t("create.loras.add")}</span>
          <select
            value=""
            onChange={event => {
              add(event.currentTarget.value)
              event.currentTarget.value = ""
            }}
          >
            <option value="" />
            {left.map(one => <option key={one.name} value={one.name}>{one.name}</option>)}
          </select>
        </label>
      ) : null}
      {loras.value.length ? null : <p class="quiet">{t("create.loras.none")}</p>}
      <label class="file-button">
        <input
          class="visually-hidden"
          type="file"
          accept=".safetensors"
          onChange={event => {
            void upload(event.currentTarget.files?.[0])
            event.currentTarget.value = ""
          }}
        />
        <span>{t("create.loras.upload")}</span>
      </label>
      {problem ? <Problem text={problem} /> : null}
    </Section>
  )
}
