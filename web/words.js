// @ts-check
// The words of locales/<language>/main.json under "onediff", as the host serves them.

/**
 * A word or sentence by key, with its {placeholders} filled. A `count` among the values chooses the plural form.
 * @typedef {(key: string, values?: Record<string, string | number>) => string} Words
 */

/**
 * @param {any} table
 * @param {string} key "status.compiled"
 * @returns {string | undefined}
 */
function look(table, key) {
  let found = table?.onediff;
  for (const part of key.split(".")) found = found?.[part];
  return typeof found === "string" ? found : undefined;
}

/**
 * Words of the user's language, where it has none those of its base ("zh-TW" → "zh"), else English.
 * A word that exists nowhere is its own key, so that a missing file costs wording, not the status.
 * @param {Record<string, any>} tables language → contents of its files, as `GET /i18n` answers
 * @param {string} locale
 * @returns {Words}
 */
export function createWords(tables, locale) {
  const languages = [...new Set([locale, locale.split("-")[0], "en"])];
  const form = new Map(languages.map((language) => [language, plural(language)]));
  return (key, values = {}) => {
    for (const language of languages) {
      const counted = "count" in values ? `${key}_${form.get(language)?.select(Number(values.count))}` : key;
      const text =
        look(tables[language], counted) ?? look(tables[language], `${key}_other`) ?? look(tables[language], key);
      if (text !== undefined) return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
    }
    return key;
  };
}

/** @param {string} language */
function plural(language) {
  try {
    return new Intl.PluralRules(language);
  } catch {
    return new Intl.PluralRules("en");
  }
}
