/** Close codes below 4500 that say the broker would refuse this client again. */
const FINAL = [1000, 1002, 1003, 1007, 1008, 1009];

/** Whether a client comes back after a connection closed with this code: 4500 to 4999 and a few others say no. */
export function comesBack(code: number): boolean {
  return code < 4500 && !FINAL.includes(code);
}
