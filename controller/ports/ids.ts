/** Source of new random UUIDs (version 4, lower case). */
export interface IdSource {
  uuid(): string;
}
