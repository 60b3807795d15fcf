import { useState } from "preact/hooks"
import { FieldControl, Section, Slider } from "../components/controls"
import { ImageInput } from "../components/image_input"
import { MaskEditor } from "../components/mask_editor"
import { Thumbnail } from "../components/image_input"
import { controlImage, initImage, mask, set, values } from "../lib/create"
import { t } from "../lib/i18n"
import { usualModel } from "../lib/models"
import type { Model } from "../lib/types"

/** An image to begin with, and a mask painted over it. */
export function StartFields({ chosen }: { chosen: Model }) {
  const [paints, setPaints] = useState(false)
  const strength = chosen.fields?.strength
  if (!chosen.fields?.init_image) return null
  const choose = (blob: Blob | null): void => {
    initImage.value = blob
    mask.value = null
  }
  return (
    <Section title={t("create.start")} open={initImage.value !== null}>
      <div class="row">
        <ImageInput label={t("create.start")} value={initImage.value} onChange={choose} />
        {mask.value ? (
          <Thumbnail blob={mask.value} name={t("create.mask")} onRemove={() => (mask.value = null)} />
        ) : null}
        {initImage.value ? (
          <button type="button" onClick={() => setPaints(true)}>{t("mask.paint")}</button>
        ) : null}
      </div>
      {strength && initImage.value ? (
        <Slider
          label={t("create.strength")}
          name="strength"
          min={strength.minimum ?? 0}
          max={strength.maximum ?? 1}
          step={0.05}
          value={Number(values.value.strength || strength.default)}
          onChange={value => set("strength", String(value))}
        />
      ) : null}
      {paints && initImage.value ? (
        <MaskEditor
          image={initImage.value}
          onClose={() => setPaints(false)}
          onDone={made => {
            mask.value = made
            setPaints(false)
          }}
        />
      ) : null}
    </Section>
  )
}

/** A reference image whose edges, or the like, the result follows. */
export function ControlFields({ chosen }: { chosen: Model }) {
  const fields = chosen.fields ?? {}
  if (!fields.control_image) return null
  if (!chosen.controls?.length)
    return (
      <Section title={t("create.control")}>
        <p class="quiet">{t("create.control.none")}</p>
      </Section>
    )
  const names = ["control_type", "low_threshold", "high_threshold", "control_guidance_start", "control_guidance_end"]
  const scale = fields.controlnet_conditioning_scale
  return (
    <Section title={t("create.control")} open={controlImage.value !== null}>
      <ImageInput label={t("create.control")} value={controlImage.value} onChange={blob => (controlImage.value = blob)} />
      {controlImage.value ? (
        <>
          {scale ? (
            <Slider
              label={t("field.controlnet_conditioning_scale")}
              name="controlnet_conditioning_scale"
              min={scale.minimum ?? 0}
              max={scale.maximum ?? 2}
              step={0.05}
              value={Number(values.value.controlnet_conditioning_scale || scale.default)}
              onChange={value => set("controlnet_conditioning_scale", String(value))}
            />
          ) : null}
          <label class="switch">
            <input
              type="checkbox"
              checked={values.value.control_preprocess === "false"}
              onChange={event => set("control_preprocess", event.currentTarget.checked ? "false" : "")}
            />
            <span>{t("create.control.map")}</span>
          </label>
          <div class="grid">
            {names.map(name =>
              fields[name] ? (
                <FieldControl key={name} name={name} field={fields[name]} value={values.value[name] ?? ""} onChange={text => set(name, text)} />
              ) : null,
            )}
          </div>
        </>
      ) : null}
    </Section>
  )
}

const SCALES = ["2", "3", "4"]

/** Whether the finished images are enlarged. */
export function EnlargeFields() {
  if (!usualModel("upscale")) return null
  return (
    <label class="field">
      <span>{t("create.enlarge")}</span>
      <select name="enlarge" value={values.value.enlarge ?? ""} onChange={event => set("enlarge", event.currentTarget.value)}>
        <option value="">{t("create.enlarge.no")}</option>
        {SCALES.map(scale => <option key={scale} value={scale}>{scale}×</option>)}
      </select>
    </label>
  )
}
