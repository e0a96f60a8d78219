// What is kept of a run is for others to read: addresses in it lose their passwords.

/** `redis://user:***@host` for every address in the text that has a password. */
export function hidePasswords(text: string): string {
  return text.replace(/(\/\/[^\s/@:]*:)[^\s/@]+@/g, '$1***@');
}
